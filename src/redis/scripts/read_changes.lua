-- Reads the changes of a part that the feed has not published yet, or those after another position.
--
-- KEYS     meta, history
-- ARGV     bytes to read; the entry that exceeds this size is the last one
--          [the position: a number of entries, in place of that of the feed]
-- Returns  {number of entries published or read so far, 1 if there are more (else 0), the changes of the entries read,
--          7 bytes each, a number that rises when recipients of the part are erased}.
-- If repeated: changes nothing.
local ENTRIES = 512
local told = tonumber(ARGV[2] or redis.call('HGET', KEYS[1], 'told')) or 0
local read, size = {}, 0
for i, entry in ipairs(redis.call('LRANGE', KEYS[2], told, told + ENTRIES - 1)) do
  read[i] = entry
  size = size + #entry
  if size > tonumber(ARGV[1]) then break end
end
local seen = told + #read
return { seen, redis.call('LLEN', KEYS[2]) > seen and 1 or 0, table.concat(read), redis.call('HSTRLEN', KEYS[1], 'erased') }
