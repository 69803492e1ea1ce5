-- Stores what became of claimed messages of chats.
--
-- KEYS     states, requests, queue, sends, results
-- ARGV     time (ms), then for each message: what, id, send, a time (ms), code, a text
--          what: C claimed: deadline, attempts.epoch.claim. A accepted: Meta's id as the text. R to be tried again, and
--          B the same without counting the attempt: when. D in doubt: deadline. F refused: Meta's code and error text.
-- Returns  1.
-- If repeated: changes nothing.
--
-- C restores a claim that Redis has lost, for a replay.
local states, requests, queue, sends, results = unpack(KEYS)
local now = ARGV[1]

local function tell(id, send, state, wamid, code, text)
  redis.call('XADD', results, '*', 'id', id, 'send', send, 'state', state, 'at', now, 'wamid', wamid, 'code', code,
    'details', text)
end

local function close(id, state, send)
  redis.call('HSET', states, id, state .. '.' .. send .. '.0.0.0')
  redis.call('HDEL', requests, id)
  redis.call('ZREM', queue, id)
  redis.call('ZREM', sends, id)
end

for i = 2, #ARGV, 6 do
  local what, id, send, time, code, text = unpack(ARGV, i, i + 5)
  local state, last, attempts, owner =
    string.match(redis.call('HGET', states, id) or '', '^(%d+)%.(%d+)%.(%d+)%.(.*)$')
  local is_open = not state or tonumber(state) <= 4
  if what == 'C' then
    if is_open and (not state or tonumber(last) < tonumber(send)) then
      redis.call('HSET', states, id, 'STATE.in_flight.' .. send .. '.' .. text)
      redis.call('ZREM', queue, id)
      redis.call('ZADD', sends, time, id)
    end
  elseif is_open and (not state or tonumber(last) <= tonumber(send)) then
    if what == 'A' then
      close(id, 'STATE.accepted', send)
      tell(id, send, 'STATE.accepted', text, '', '')
    elseif what == 'F' then
      close(id, 'STATE.refused', send)
      tell(id, send, 'STATE.refused', '', code, text)
    elseif what == 'D' then
      if state ~= 'STATE.in_doubt' then tell(id, send, 'STATE.in_doubt', '', code, text) end
      redis.call('HSET', states, id, 'STATE.in_doubt.' .. send .. '.' .. (attempts or 1) .. '.' .. (owner or '0.0'))
      redis.call('ZREM', queue, id)
      redis.call('ZADD', sends, time, id)
    elseif state == 'STATE.in_flight' then
      attempts = what == 'B' and attempts - 1 or attempts
      if what == 'R' then tell(id, send, 'STATE.retrying', '', code, text) end
      redis.call('HSET', states, id, 'STATE.retrying.' .. send .. '.' .. attempts .. '.0.0')
      redis.call('ZREM', sends, id)
      redis.call('ZADD', queue, time, id)
    end
  end
end
return 1
