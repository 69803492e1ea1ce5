-- Removes results that the reader has stored, and the messages that end with them.
--
-- KEYS     fences, states, results
-- ARGV     epoch of the reader, id of the last result, ids of the messages that have ended
-- Returns  1, or 0 if a newer reader has put messages.
-- If repeated: changes nothing.
local fences, states, results = unpack(KEYS)
if tonumber(ARGV[1]) < tonumber(redis.call('HGET', fences, 'reader') or 0) then return 0 end
redis.call('HSET', fences, 'reader', ARGV[1])
local ms, number = string.match(ARGV[2], '(%d+)-(%d+)')
redis.call('XTRIM', results, 'MINID', ms .. '-' .. string.format('%.0f', number + 1))
for i = 3, #ARGV do
  local record = redis.call('HGET', states, ARGV[i])
  if record and tonumber(string.match(record, '^%d+')) > 4 then redis.call('HDEL', states, ARGV[i]) end
end
return 1
