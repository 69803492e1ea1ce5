-- Ends recipients that will not be sent any more: the campaign was cancelled, or its `expires_at` has passed.
--
-- KEYS  meta, state, history, retry, why
-- ARGV  now (ms), limit, state to end in (cancelled or expired)
-- Gives {rows still to be ended: 1 or 0, open recipients of the part}. Call again while the first is 1.
-- Again: rows in any other state than pending or retrying are left alone.
local meta, state, history, retry, why = unpack(KEYS)
local now, limit, to = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local second = math.floor(now / 1000)
local at = redis.call('HMGET', meta, 'gate', 'expires', 'next', 'rows')
if to == STATE.cancelled and at[1] ~= 'cancelled' then return redis.error_reply('ERR the part is not cancelled') end
if to == STATE.expired and now < (tonumber(at[2]) or math.huge) then return redis.error_reply('ERR the part has not expired') end

local m, ended = moves(meta, state, history), 0
local function finish(row)
  local byte = m.byte(row)
  local was = byte % 16
  if was == STATE.pending or was == STATE.retrying then
    if was == STATE.retrying then redis.call('HDEL', why, row) end
    m.move(row, byte, to, math.floor(byte / 16), second)
  end
  ended = ended + 1
end

for _, row in ipairs(redis.call('ZRANGE', retry, 0, limit - 1)) do
  finish(tonumber(row))
  redis.call('ZREM', retry, row)
end
local next, rows = tonumber(at[3]) or 0, tonumber(at[4]) or 0
while next < rows and ended < limit do
  finish(next)
  next = next + 1
end
m.set('next', next)
local open = m.commit()
return { (next < rows or redis.call('EXISTS', retry) == 1) and 1 or 0, open }
