-- Ends the recipients of a campaign that sends no more: it was cancelled or completed, or its `expires_at` has passed.
--
-- KEYS     meta, state, history, sends, retry, codes, before
-- ARGV     now (ms), limit (rows), code of the state to end in: cancelled, expired, or failed in a completed campaign
-- Returns  {1 if more rows have to be ended, else 0; open recipients of the part}. Call again while the first is 1.
-- If repeated: a row in any state other than pending or retrying is unchanged.
--
-- A row that was sent before returns to its earlier state (see `go_back`): it fails with its code if Meta returned or
-- withheld its message. Any other unsent row of a completed campaign was reopened just before the gate closed. It is
-- refused with the code of its attempt, or becomes unknown if there is none.
local meta, state, history, sends, retry, codes, before = unpack(KEYS)
local now, limit, to = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local second = math.floor(now / 1000)
local record = redis.call('HMGET', meta, 'gate', 'expires', 'next', 'rows')
-- The campaign was deleted together with its parts.
if not record[1] and redis.call('EXISTS', meta) == 0 then return { 0, 0 } end
if to == STATE.cancelled and record[1] ~= 'cancelled' then return redis.error_reply('ERR the part is not cancelled') end
if to == STATE.failed and record[1] ~= 'completed' then return redis.error_reply('ERR the part is not completed') end
if to == STATE.expired and now < (tonumber(record[2]) or math.huge) then
  return redis.error_reply('ERR the part has not expired')
end

local m, ended = moves(meta, state, history, sends), 0
local function finish(row, due)
  local byte = m.byte(row)
  local was = byte % 16
  if claimable(was) and not (due and go_back(m, codes, before, row, byte, due, second)) then
    local ends_in = to
    if to == STATE.failed then
      ends_in = (redis.call('HGET', codes, row) or '0') ~= '0' and STATE.refused or STATE.unknown
    end
    if ends_in == STATE.refused then count_failure(m, codes, row, 1) else redis.call('HDEL', codes, row) end
    m.move(row, byte, ends_in, m.send(row, byte), second)
  end
  ended = ended + 1
end

local waiting = redis.call('ZRANGE', retry, 0, limit - 1, 'WITHSCORES')
for i = 1, #waiting, 2 do
  finish(tonumber(waiting[i]), tonumber(waiting[i + 1]))
  redis.call('ZREM', retry, waiting[i])
end
local next, rows = tonumber(record[3]) or 0, tonumber(record[4]) or 0
while next < rows and ended < limit do
  finish(next)
  next = next + 1
end
m.set('next', next)
local open = m.commit()
return { (next < rows or redis.call('EXISTS', retry) == 1) and 1 or 0, open }
