-- Puts messages of chats into the lane of their line, each once.
--
-- KEYS     fences, states, requests, queue, lease of the line
-- ARGV     epoch of the reader, time (ms), then for each message: id, request
-- Returns  {1, the worker that has the line or ''}, or {0, ''} if a newer reader has put messages.
-- If repeated: changes nothing, until the message is acknowledged.
--
-- A record is `state.send.attempts.epoch.claim`: the epoch and the number of its last claim.
local fences, states, requests, queue, lease = unpack(KEYS)
if tonumber(ARGV[1]) < tonumber(redis.call('HGET', fences, 'reader') or 0) then return { 0, '' } end
redis.call('HSET', fences, 'reader', ARGV[1])
for i = 3, #ARGV, 2 do
  local id = ARGV[i]
  local record = redis.call('HGET', states, id)
  if not record then
    redis.call('HSET', states, id, '1.0.0.0.0')
    redis.call('HSET', requests, id, ARGV[i + 1])
    redis.call('ZADD', queue, ARGV[2], id)
  elseif tonumber(string.match(record, '^%d+')) <= 4 then
    redis.call('HSETNX', requests, id, ARGV[i + 1])
  end
end
local owner = redis.call('GET', lease)
return { 1, owner and string.match(owner, '^(.*) %d+$') or '' }
