-- Finds rows by message id, where Meta did not echo the token.
--
-- KEYS  ids
-- ARGV  fingerprints of 8 bytes
-- Gives per fingerprint {row, send}, or {} where this part never got that message id. Reads only.
local found, left = {}, #ARGV
for i = 1, left do found[i] = {} end
local length, from = redis.call('LLEN', KEYS[1]), 0
while from < length and left > 0 do
  for _, blob in ipairs(redis.call('LRANGE', KEYS[1], from, from + 63)) do
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
  from = from + 64
end
return found
