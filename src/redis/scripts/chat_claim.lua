-- Claims messages of chats for sending, the oldest first, and ends the doubts whose deadline has passed.
--
-- KEYS     fences, states, requests, queue, sends, results
-- ARGV     epoch of the line's lease, number of the claim, time (ms), maximum number of messages, deadline of the doubt
--          (ms) in which the messages are if the caller dies, number of an earlier claim without a response (0: none)
-- Returns  {'claimed', next due time, next deadline, id, send, attempt, request, …}, where '' is none; {'late'} if a
--          later claim came first; {'fenced', epoch} if a newer owner has claimed.
-- If repeated: {'late'}.
--
-- The messages of the claim without a response were certainly not sent, and become due again, ahead of all others.
local fences, states, requests, queue, sends, results = unpack(KEYS)
local epoch, number, now = ARGV[1], ARGV[2], tonumber(ARGV[3])
local owner = redis.call('HMGET', fences, 'owner', 'claim')
local newest = tonumber(owner[1]) or 0
if tonumber(epoch) < newest then return { 'fenced', newest } end
if tonumber(epoch) == newest and tonumber(number) <= (tonumber(owner[2]) or 0) then return { 'late' } end
redis.call('HSET', fences, 'owner', epoch, 'claim', number)

local function parse(record) return string.match(record or '', '^(%d+)%.(%d+)%.(%d+)%.(%d+)%.(%d+)$') end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', sends, '-inf', now, 'LIMIT', 0, 100)) do
  local _, send = parse(redis.call('HGET', states, id))
  redis.call('ZREM', sends, id)
  redis.call('HDEL', requests, id)
  if send then
    redis.call('HSET', states, id, 'STATE.unknown.' .. send .. '.0.0.0')
    redis.call('XADD', results, '*', 'id', id, 'send', send, 'state', 'STATE.unknown', 'at', now)
  end
end

if ARGV[6] ~= '0' then
  for _, id in ipairs(redis.call('ZRANGE', sends, 0, -1)) do
    local state, send, attempts, its_epoch, its_claim = parse(redis.call('HGET', states, id))
    if state == 'STATE.in_flight' and its_epoch == epoch and its_claim == ARGV[6] then
      redis.call('ZREM', sends, id)
      redis.call('HSET', states, id, 'STATE.pending.' .. send .. '.' .. (attempts - 1) .. '.0.0')
      redis.call('ZADD', queue, 0, id)
    end
  end
end

local answer = { 'claimed', '', '' }
for _, id in ipairs(redis.call('ZRANGEBYSCORE', queue, '-inf', now, 'LIMIT', 0, ARGV[4])) do
  local _, send, attempts = parse(redis.call('HGET', states, id))
  local request = redis.call('HGET', requests, id)
  redis.call('ZREM', queue, id)
  if send and request == '' then
    -- Its person was forgotten while it was on its way.
    redis.call('HSET', states, id, 'STATE.cancelled.' .. send .. '.0.0.0')
    redis.call('HDEL', requests, id)
    redis.call('XADD', results, '*', 'id', id, 'send', send, 'state', 'STATE.cancelled', 'at', now)
  elseif send and request then
    send, attempts = send + 1, attempts + 1
    redis.call('HSET', states, id, table.concat({ 'STATE.in_flight', send, attempts, epoch, number }, '.'))
    redis.call('ZADD', sends, ARGV[5], id)
    answer[#answer + 1] = id
    answer[#answer + 1] = tostring(send)
    answer[#answer + 1] = tostring(attempts)
    answer[#answer + 1] = request
  else
    -- Redis has lost its request: the reader puts it again.
    redis.call('HDEL', states, id)
  end
end
answer[2] = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')[2] or ''
answer[3] = redis.call('ZRANGE', sends, 0, 0, 'WITHSCORES')[2] or ''
return answer
