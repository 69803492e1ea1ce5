-- Claims rows of a part for sending: rows due for a retry first, then fresh rows in their order.
--
-- KEYS     meta, state, history, sends, retry, doubt, tries, codes, before
-- ARGV     1 epoch of the caller's lease · 2 now (ms) · 3 limit (rows)
--          4 doubt deadline (ms) for rows that an older epoch left in flight
--          5 number of this claim, which rises within an epoch · 6 number of an earlier claim that got no response
--            (0: none)
--          7 grace period: 1 while another process may still have to replay what Redis lost. Then the script claims
--            only rows that were never claimed
-- Returns  {'claimed', start, count, packed, next due, next doubt, fresh left, open, lost, erased}: `count` fresh rows
--          from `start` (send 1, attempt 1), and the other rows packed as u16 row, u8 send, u8 attempt; both times in
--          Unix ms, -1 for none; `erased` rises when recipients of the part are erased;
--          {'held', next doubt, open, lost} if the gate is not open;
--          {'expired', lost} if the campaign's `expires_at` has passed;
--          {'fenced', epoch, lost} if a newer epoch has the part;
--          {'late'} if the number of this claim is not above the last one: a later claim overtook it;
--          {'young'} in the grace period, if an older epoch has the part, or none as far as Redis knows: it is too
--          early to take the part over.
--          `lost` has the rows of the earlier claim that got no response: u16 start, u16 count, packed rows; empty if
--          it claimed none. With a limit of 0 the script claims nothing, but still takes the part over.
-- If repeated: returns {'late'} and claims nothing. A lost response leaves rows in flight that the caller does not
-- know of; the next claim asks for these rows, and the caller gives them back. The part therefore stores the rows of
-- its last claim, and of the last claim of the previous owner.
local meta, state, history, sends, retry, doubt, tries, codes, before = unpack(KEYS)
local epoch, now, limit, deadline = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local record = redis.call('HMGET', meta, 'epoch', 'gate', 'expires', 'next', 'rows', 'in_flight', 'claim', 'erased')
local owner, number = tonumber(record[1]) or 0, tonumber(ARGV[5])
-- The stored rows of the earlier claim that got no response (ARGV 6); empty if they are not stored.
local function unanswered_rows()
  local prefix = ARGV[1] .. ' ' .. ARGV[6] .. ' '
  for _, stored in ipairs(redis.call('HMGET', meta, 'claimed', 'claimed_before')) do
    if stored and string.sub(stored, 1, #prefix) == prefix then return string.sub(stored, #prefix + 1) end
  end
  return ''
end
local lost = ARGV[6] == '0' and '' or unanswered_rows()

-- The campaign was deleted together with its parts.
if not record[2] and redis.call('EXISTS', meta) == 0 then return { 'held', -1, 0, lost } end
if epoch < owner then return { 'fenced', owner, lost } end
if epoch == owner and number <= (tonumber(record[7]) or 0) then return { 'late' } end
if epoch > owner and ARGV[7] == '1' then return { 'young' } end

local m = moves(meta, state, history, sends)
m.set('epoch', epoch)
m.set('claim', number)
if epoch > owner and (tonumber(record[6]) or 0) > 0 then
  local bytes = redis.call('GET', state) or ''
  local found = string.find(bytes, IN_FLIGHT)
  while found do
    local row, byte = found - 1, string.byte(bytes, found)
    m.move(row, byte, STATE.in_doubt, m.send(row, byte), math.floor(now / 1000))
    redis.call('ZADD', doubt, deadline, row)
    found = string.find(bytes, IN_FLIGHT, found + 1)
  end
  m.set('claimed_before', redis.call('HGET', meta, 'claimed') or '')
  m.commit()
  m = moves(meta, state, history, sends)
end
-- Usually `retry` and `doubt` are empty, and this one command saves reading both.
local has_schedule = redis.call('EXISTS', retry, doubt) > 0
local function first(schedule)
  return has_schedule and tonumber(redis.call('ZRANGE', schedule, 0, 0, 'WITHSCORES')[2]) or -1
end
local next_doubt = first(doubt)
if record[2] ~= 'open' then return { 'held', next_doubt, m.commit(), lost } end
if record[3] and now >= tonumber(record[3]) then
  m.commit()
  return { 'expired', lost }
end

-- In the grace period, a recipient who waits for a retry may have got an earlier message, of which Redis lost the
-- status. The caller asks for such rows again after a pause.
local GRACE_PAUSE = 100
local in_grace_period = ARGV[7] == '1'
local function next_due()
  local due = first(retry)
  return in_grace_period and due >= 0 and math.max(due, now + GRACE_PAUSE) or due
end

local packed, claimed = {}, 0
local may_retry = has_schedule and not in_grace_period
local due = may_retry and redis.call('ZRANGEBYSCORE', retry, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit) or {}
for i = 1, #due, 2 do
  local row, reopened_from = tonumber(due[i]), state_before(tonumber(due[i + 1]))
  local byte = m.byte(row)
  if claimable(byte % 16) then
    if reopened_from then note_before(before, codes, row, reopened_from) end
    local send = following(m.send(row, byte))
    m.move(row, byte, STATE.in_flight, send)
    packed[#packed + 1] = struct.pack('<I2BB', row, send, (redis.call('HGET', tries, row) or 0) + 1)
    claimed = claimed + 1
  end
  redis.call('ZREM', retry, row)
end

local next, rows = tonumber(record[4]) or 0, tonumber(record[5]) or 0
local start, count = next, math.min(limit - claimed, rows - next)
if count > 0 then
  if redis.call('GETRANGE', state, next, next + count - 1) == string.rep(string.char(STATE.pending), count) then
    m.count(NAME[STATE.pending], -count)
    m.count(NAME[STATE.in_flight], count)
    next = next + count
  else
    -- Some of these rows are not recipients, such as rejected duplicates: look for recipients one by one, in at most
    -- 10 * `count` rows.
    local stop = math.min(rows, next + 10 * count)
    local left = count
    count = 0
    while next < stop and left > 0 do
      local byte = m.byte(next)
      -- Only a fresh row: pending, with send number 0. If Redis lost the newest value of `next`, rows from `next` on
      -- were claimed before; those that are pending again are in `retry`.
      if byte == STATE.pending then
        m.move(next, byte, STATE.in_flight, 1)
        packed[#packed + 1] = struct.pack('<I2BB', next, 1, 1)
        left = left - 1
      end
      next = next + 1
    end
  end
  m.set('next', next)
else
  count = 0
end

packed = table.concat(packed)
if count > 0 or #packed > 0 then
  m.set('claimed', ARGV[1] .. ' ' .. ARGV[5] .. ' ' .. struct.pack('<I2I2', start, count) .. packed)
end
local open = m.commit()
-- After the commit: retried rows may lie on both sides of the fresh ones, and the commit writes the bytes between
-- changed rows as they were before this call.
if count > 0 then redis.call('SETRANGE', state, start, string.rep(string.char(16 + STATE.in_flight), count)) end
return { 'claimed', start, count, packed, next_due(), next_doubt, rows - next, open, lost, record[8] and #record[8] or 0 }
