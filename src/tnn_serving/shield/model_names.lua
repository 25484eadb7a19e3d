-- Refuses gRPC requests to load or unload a model whose name, or anything else in them, leads out of the repository:
-- tritonserver 2.51 joins the name to the repository's path as it is. Over HTTP a name in a URL has no slash.
function envoy_on_request(request)
  local body = request:body()
  if body == nil then return end
  local message = body:getBytes(0, body:length())
  local refused
  if string.byte(message, 1) ~= 0 then -- the first byte of a gRPC message says whether it is compressed
    refused = "send this request uncompressed"
  elseif string.find(message, "../", 1, true) or string.find(message, "/..", 1, true) then
    refused = "names and files of a model have no ../ in them"
  end
  if refused then
    request:respond({
      [":status"] = "200",
      ["content-type"] = "application/grpc",
      ["grpc-status"] = "3", -- INVALID_ARGUMENT
      ["grpc-message"] = refused,
    })
  end
end
