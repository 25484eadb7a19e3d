-- Marks gRPC requests that belong to a sequence: the routes send all requests of one sequence to the same server.
-- Messages that are compressed cannot be read here; they are marked as such, and not repeated.
--
-- The message is a ModelInferRequest of Triton's grpc_service.proto. Its field 4 is the map of parameters: an entry has the
-- key in field 1 and an InferParameter in field 2, whose field 2 or 5 is an integer and field 3 a string.
local byte = string.byte

-- A number of 7 bits per byte at `at`, and where the next thing begins. Ids of 64 bits lose digits, which does not matter to
-- a hash.
local function varint(text, at)
  local value, factor = 0, 1
  while true do
    local c = byte(text, at)
    if c == nil then return nil, at end
    value = value + (c % 128) * factor
    at = at + 1
    if c < 128 then return value, at end
    factor = factor * 128
  end
end

-- The number or text of a field of a short message; nil without it.
local function field(text, wanted)
  local at = 1
  while at <= #text do
    local key, value
    key, at = varint(text, at)
    if key == nil then return nil end
    local kind = key % 8
    value, at = varint(text, at)
    if value == nil then return nil end
    if kind == 2 then
      at, value = at + value, string.sub(text, at, at + value - 1)
    elseif kind ~= 0 then
      return nil
    end
    if (key - kind) / 8 == wanted then return value end
  end
end

function envoy_on_request(request)
  local body = request:body()
  if body == nil then return end
  local size = body:length()
  if size < 5 then return end
  if byte(body:getBytes(0, 1)) ~= 0 then
    request:headers():replace("tnn-unread", "compressed")
    request:clearRouteCache()
    return
  end
  local at = 5
  while at < size do -- over the fields, without reading the tensors
    local head = body:getBytes(at, math.min(20, size - at))
    local key, after = varint(head, 1)
    local length, start
    if key ~= nil then length, start = varint(head, after) end
    if length == nil or key % 8 ~= 2 then return end
    local first = at + start - 1
    if key == 34 and first + length <= size then -- field 4 with a length
      local entry = body:getBytes(first, length)
      if field(entry, 1) == "sequence_id" then
        local parameter = field(entry, 2) or ""
        local id = field(parameter, 2) or field(parameter, 5) or field(parameter, 3)
        if id ~= nil and id ~= 0 and id ~= "" then
          request:headers():replace("tnn-sequence-id", (string.gsub(tostring(id), "[^%w._-]", "_")))
          request:clearRouteCache()
        end
        return
      end
    end
    at = first + length
  end
end
