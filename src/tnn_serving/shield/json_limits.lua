-- Refuses requests whose JSON is too large or nested too deep for Triton's parser, before Triton sees them.
-- MAX_JSON_BYTES and MAX_JSON_DEPTH are set before this text.
--
-- The JSON of a request is the body, or as much of it as Inference-Header-Content-Length says: tensors in binary follow.
-- One pass over its bytes; loops like this one are compiled by LuaJIT. Brackets inside strings do not nest.
local byte = string.byte

local function refuse(request, status, text)
  request:respond({[":status"] = status}, text)
end

local function too_deep(text)
  local depth, quoted, i, size = 0, false, 1, #text
  while i <= size do
    local c = byte(text, i)
    if quoted then
      if c == 92 then -- a backslash: the next byte is no quote
        i = i + 1
      elseif c == 34 then
        quoted = false
      end
    elseif c == 34 then
      quoted = true
    elseif c == 91 or c == 123 then -- [ {
      depth = depth + 1
      if depth > MAX_JSON_DEPTH then return true end
    elseif c == 93 or c == 125 then -- ] }
      depth = depth - 1
    end
    i = i + 1
  end
  return false
end

function envoy_on_request(request)
  local stated = request:headers():get("inference-header-content-length")
  local body = request:body()
  if body == nil then return end
  local size = body:length()
  if stated ~= nil then
    local length = string.match(stated, "^%d%d?%d?%d?%d?%d?%d?%d?%d?%d?$") and tonumber(stated)
    if not length or length > size then
      return refuse(request, "400", "Inference-Header-Content-Length is not a number up to the length of the body")
    end
    size = length
  end
  if size > MAX_JSON_BYTES then
    return refuse(request, "413", "the request has more than " .. MAX_JSON_BYTES .. " bytes of JSON: send tensors in binary")
  end
  if too_deep(body:getBytes(0, size)) then
    return refuse(request, "400", "the request's JSON is nested more than " .. MAX_JSON_DEPTH .. " deep")
  end
end
