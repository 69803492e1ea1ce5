-- Claims rows of a part for sending: first those that are due again, then fresh ones in their order.
--
-- KEYS  meta, state, history, retry, doubt
-- ARGV  epoch of the caller's lease, now (ms), limit, deadline (ms) for what an older epoch left in flight
-- Gives {'claimed', start, count, packed, next due, next doubt, fresh left, open}: `count` fresh rows from `start` (send 1), and
--       packed rows (u16 row, u8 send) for the others; -1 where nothing is due; or {'held', next doubt, open}, {'expired'},
--       {'fenced', epoch}. With a limit of 0 it only looks, and takes the part over.
-- Again: a lost answer leaves the rows in flight; the next epoch puts them in doubt.
local meta, state, history, retry, doubt = unpack(KEYS)
local epoch, now, limit, deadline = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local at = redis.call('HMGET', meta, 'epoch', 'gate', 'expires', 'next', 'rows', 'in_flight')
local owner = tonumber(at[1]) or 0
if epoch < owner then return { 'fenced', owner } end

local m = moves(meta, state, history)
if epoch > owner then
  redis.call('HSET', meta, 'epoch', epoch)
  if (tonumber(at[6]) or 0) > 0 then
    local bytes = redis.call('GET', state)
    local found = string.find(bytes, IN_FLIGHT)
    while found do
      local row, byte = found - 1, string.byte(bytes, found)
      m.move(row, byte, STATE.in_doubt, math.floor(byte / 16), math.floor(now / 1000))
      redis.call('ZADD', doubt, deadline, row)
      found = string.find(bytes, IN_FLIGHT, found + 1)
    end
    m.commit()
    m = moves(meta, state, history)
  end
end
local doubtful = tonumber(redis.call('ZRANGE', doubt, 0, 0, 'WITHSCORES')[2]) or -1
if at[2] ~= 'open' then return { 'held', doubtful, m.commit() } end
if at[3] and now >= tonumber(at[3]) then return { 'expired' } end

local packed, claimed = {}, 0
for _, row in ipairs(redis.call('ZRANGEBYSCORE', retry, '-inf', now, 'LIMIT', 0, limit)) do
  row = tonumber(row)
  local byte = m.byte(row)
  local was, send = byte % 16, math.floor(byte / 16)
  if was == STATE.pending or was == STATE.retrying then
    send = send % 15 + 1
    m.move(row, byte, STATE.in_flight, send)
    packed[#packed + 1] = struct.pack('<I2B', row, send)
    claimed = claimed + 1
  end
  redis.call('ZREM', retry, row)
end

local next, rows = tonumber(at[4]) or 0, tonumber(at[5]) or 0
local start, count = next, math.min(limit - claimed, rows - next)
if count > 0 then
  if redis.call('GETRANGE', state, next, next + count - 1) == string.rep(string.char(STATE.pending), count) then
    redis.call('SETRANGE', state, next, string.rep(string.char(16 + STATE.in_flight), count))
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
      if byte == STATE.pending then
        m.move(next, byte, STATE.in_flight, 1)
        packed[#packed + 1] = struct.pack('<I2B', next, 1)
        left = left - 1
      end
      next = next + 1
    end
  end
  redis.call('HSET', meta, 'next', next)
else
  count = 0
end

local open = m.commit()
local due = redis.call('ZRANGE', retry, 0, 0, 'WITHSCORES')
return { 'claimed', start, count, table.concat(packed), tonumber(due[2]) or -1, doubtful, rows - next, open }
