-- Claims rows of a part for sending: first those that are due again, then fresh ones in their order.
--
-- KEYS  meta, state, history, sends, retry, doubt, tries
-- ARGV  epoch of the caller's lease, now (ms), limit, deadline (ms) for what an older epoch left in flight,
--       number of the claim: rises with each claim of an epoch; number of an earlier one that went without an answer, 0 for none;
--       young: 1 while another worker may not yet have repeated what Redis forgot
-- Gives {'claimed', start, count, packed, next due, next doubt, fresh left, open}: `count` fresh rows from `start` (send 1, attempt 1),
--       and packed rows (u16 row, u8 send, u8 attempt) for the others; -1 where nothing is due; or {'held', next doubt, open},
--       {'expired'}, {'fenced', epoch}. With a limit of 0 it only looks, and takes the part over.
--       These four end with what the claim without an answer had brought: u16 start, u16 count, and packed rows; or nothing.
--       {'young'} where an older epoch had the part, or none as far as Redis knows, and it is too early to take it over.
-- Again: a claim whose number is not above the last one is {'late'}: it was overtaken on its way, and claims nothing. A lost
--       answer leaves rows in flight that the caller does not know of: it asks for them and gives them back. So what the last claim
--       brought is kept, and that of the owner before.
local meta, state, history, sends, retry, doubt, tries = unpack(KEYS)
local epoch, now, limit, deadline = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local at = redis.call('HMGET', meta, 'epoch', 'gate', 'expires', 'next', 'rows', 'in_flight', 'claim')
local owner, number = tonumber(at[1]) or 0, tonumber(ARGV[5])
-- Of the claim without an answer.
local function brought()
  local asked = ARGV[1] .. ' ' .. ARGV[6] .. ' '
  for _, kept in ipairs(redis.call('HMGET', meta, 'claimed', 'claimed_before')) do
    if kept and string.sub(kept, 1, #asked) == asked then return string.sub(kept, #asked + 1) end
  end
  return ''
end
local lost = ARGV[6] == '0' and '' or brought()

if epoch < owner then return { 'fenced', owner, lost } end
if epoch == owner and number <= (tonumber(at[7]) or 0) then return { 'late' } end
if epoch > owner and ARGV[7] == '1' then return { 'young' } end

local m = moves(meta, state, history, sends)
m.set('epoch', epoch)
m.set('claim', number)
if epoch > owner and (tonumber(at[6]) or 0) > 0 then
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
-- Most often nothing waits for a time.
local timed = redis.call('EXISTS', retry, doubt) > 0
local function first(schedule)
  return timed and tonumber(redis.call('ZRANGE', schedule, 0, 0, 'WITHSCORES')[2]) or -1
end
local doubtful = first(doubt)
if at[2] ~= 'open' then return { 'held', doubtful, m.commit(), lost } end
if at[3] and now >= tonumber(at[3]) then
  m.commit()
  return { 'expired', lost }
end

local packed, claimed = {}, 0
for _, row in ipairs(timed and redis.call('ZRANGEBYSCORE', retry, '-inf', now, 'LIMIT', 0, limit) or {}) do
  row = tonumber(row)
  local byte = m.byte(row)
  if claimable(byte % 16) then
    local send = following(m.send(row, byte))
    m.move(row, byte, STATE.in_flight, send)
    packed[#packed + 1] = struct.pack('<I2BB', row, send, (redis.call('HGET', tries, row) or 0) + 1)
    claimed = claimed + 1
  end
  redis.call('ZREM', retry, row)
end

local next, rows = tonumber(at[4]) or 0, tonumber(at[5]) or 0
local start, count = next, math.min(limit - claimed, rows - next)
if count > 0 then
  if redis.call('GETRANGE', state, next, next + count - 1) == string.rep(string.char(STATE.pending), count) then
    m.count(NAME[STATE.pending], -count)
    m.count(NAME[STATE.in_flight], count)
    next = next + count
  else
    -- Rows that were refused as duplicates lie between: look for recipients one by one, over at most ten windows.
    local stop = math.min(rows, next + 10 * count)
    local left = count
    count = 0
    while next < stop and left > 0 do
      local byte = m.byte(next)
      -- One that was claimed before waits in the schedule, even if Redis forgot how far claims had come.
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
-- After the commit, which writes whole stretches of bytes as it has read them: a row that is due again may lie behind these.
if count > 0 then redis.call('SETRANGE', state, start, string.rep(string.char(16 + STATE.in_flight), count)) end
return { 'claimed', start, count, packed, first(retry), doubtful, rows - next, open, lost }
