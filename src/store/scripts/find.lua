-- Finds rows by message id, where Meta did not echo the token.
--
-- KEYS  ids
-- ARGV  fingerprints of 8 bytes
-- Gives per fingerprint {row, send}, or {} where this part never got that message id. Reads only.
-- From the newest id to the oldest: what Meta tells without our token is mostly about what was just sent.
local found, left = {}, #ARGV
for i = 1, left do found[i] = {} end
local upto = redis.call('LLEN', KEYS[1]) - 1
while upto >= 0 and left > 0 do
  local blobs = redis.call('LRANGE', KEYS[1], math.max(upto - 63, 0), upto)
  for at = #blobs, 1, -1 do
    local blob = blobs[at]
    for i = 1, #ARGV do
      local pos = #found[i] == 0 and string.find(blob, ARGV[i], 1, true)
      while pos and pos % 11 ~= 4 do pos = string.find(blob, ARGV[i], pos + 1, true) end
      if pos then
        local row, send = struct.unpack('<I2B', blob, pos - 3)
        found[i] = { row, send }
        left = left - 1
      end
    end
  end
  upto = upto - 64
end
return found
