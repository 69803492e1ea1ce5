-- Stores Meta's statuses of messages of chats, for the reader. A message that Meta knows is not sent again.
--
-- KEYS     states, requests, queue, sends, results
-- ARGV     maximum number of results, then for each status: id or '' if only Meta's id is known, send, state, Meta's time
--          (ms), Meta's id of the message, code, error text
-- Returns  1, or 0 if there are too many results that the reader has not read: then nothing is stored.
-- If repeated: the statuses are among the results twice, which the reader merges.
local states, requests, queue, sends, results = unpack(KEYS)
if redis.call('XLEN', results) >= tonumber(ARGV[1]) then return 0 end
for i = 2, #ARGV, 7 do
  local id, send, state, at, wamid, code, details = unpack(ARGV, i, i + 6)
  local record = id ~= '' and redis.call('HGET', states, id)
  if record and tonumber(string.match(record, '^%d+')) <= 5 then
    redis.call('HSET', states, id, 'STATE.accepted.' .. send .. '.0.0.0')
    redis.call('HDEL', requests, id)
    redis.call('ZREM', queue, id)
    redis.call('ZREM', sends, id)
  end
  redis.call('XADD', results, '*', 'id', id, 'send', send, 'state', state, 'at', at, 'wamid', wamid, 'code', code,
    'details', details)
end
return 1
