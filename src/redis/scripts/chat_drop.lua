-- Ends messages of chats whose person is forgotten, so that they are not sent.
--
-- KEYS     states, requests, queue, results
-- ARGV     time (ms), then the id of each message
-- Returns  1.
-- If repeated: the result of a message is told twice.
--
-- The record of a message stays until the reader has stored its result: a reader that has read the message from the
-- outbox before it was deleted there may put it now or later, which changes nothing then. A message that is on its way
-- has an empty request from then on, so that it is not sent again (see `chat_claim`).
local states, requests, queue, results = unpack(KEYS)
for i = 2, #ARGV do
  local id = ARGV[i]
  local state, send = string.match(redis.call('HGET', states, id) or '1.0', '^(%d+)%.(%d+)')
  if tonumber(state) <= STATE.retrying then
    redis.call('HSET', states, id, 'STATE.cancelled.' .. send .. '.0.0.0')
    redis.call('HDEL', requests, id)
    redis.call('ZREM', queue, id)
    redis.call('XADD', results, '*', 'id', id, 'send', send, 'state', 'STATE.cancelled', 'at', ARGV[1])
  elseif tonumber(state) <= STATE.in_doubt then
    redis.call('HSET', requests, id, '')
  end
end
return 1
