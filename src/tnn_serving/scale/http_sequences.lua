-- Marks HTTP requests that belong to a sequence: the routes send all requests of one sequence to the same server.
-- The sequence's id is in the JSON, which has passed the limits: all of the body, or as much as the header says.
function envoy_on_request(request)
  local body = request:body()
  if body == nil then return end
  local size = tonumber(request:headers():get("inference-header-content-length") or "") or body:length()
  local text = body:getBytes(0, math.min(size, body:length()))
  local _, last = string.find(text, '"sequence_id"', 1, true)
  while last do -- a tensor may have that name
    local id = string.match(text, '^%s*:%s*"?([%w._-]+)', last + 1)
    if id then
      if id ~= "0" then -- 0 is no sequence
        request:headers():replace("tnn-sequence-id", id)
        request:clearRouteCache()
      end
      return
    end
    _, last = string.find(text, '"sequence_id"', last, true)
  end
end
