-- Merges what attempts ended in. Facts are taken from any epoch: they are knowledge about the world.
--
-- KEYS  meta, state, history, retry, doubt, why, ids
-- ARGV  now (ms), lifetime of message ids (ms), packed outcomes of 16 bytes:
--       u16 row, u8 send, u8 kind, u32 code, 8 bytes: fingerprint of the message id (accepted) or a time in ms as a double
-- Kinds A accepted · R certainly not sent, again at the time, the attempt counts · B certainly not sent, again at the time,
--       the attempt does not count · D in doubt until the time · F refused by Meta
--       Of a campaign that was cancelled meanwhile, R and B end as cancelled: its sweep has passed them by.
-- Gives open recipients of the part.
-- Again: the same outcome twice changes nothing: the state no longer matches the send.
local meta, state, history, retry, doubt, why, ids = unpack(KEYS)
local now, outcomes = tonumber(ARGV[1]), ARGV[3]
local second = math.floor(now / 1000)
local cancelled = redis.call('HGET', meta, 'gate') == 'cancelled'
local m, kept, accepted = moves(meta, state, history), {}, 0

for pos = 1, #outcomes, 16 do
  local row, send, kind, code, tail = struct.unpack("<I2BBI4c8", outcomes, pos)
  local byte = m.byte(row)
  local was, current = byte % 16, math.floor(byte / 16)
  kind = string.char(kind)
  if kind == 'A' then kept[#kept + 1] = struct.pack('<I2Bc8', row, send, tail) end
  -- The way back is open only to the attempt that made the claim, also when it was put in doubt meanwhile.
  local mine = current == send and (was == STATE.in_flight or was == STATE.in_doubt or was == STATE.unknown)
  if mine then
    if was ~= STATE.in_flight then redis.call('ZREM', doubt, row) end
    if send > 1 or was ~= STATE.in_flight then forget_why(m, why, row, was) end
    if kind == 'A' then
      m.move(row, byte, STATE.accepted, send, second)
      accepted = accepted + 1
    elseif kind == 'F' then
      m.move(row, byte, STATE.refused, send, second)
      redis.call('HSET', why, row, code)
      m.count('f' .. code, 1)
    elseif cancelled and (kind == 'R' or kind == 'B') then
      m.move(row, byte, STATE.cancelled, kind == 'R' and send or send - 1, second)
    elseif kind == 'R' then
      m.move(row, byte, STATE.retrying, send, second)
      redis.call('HSET', why, row, code)
      redis.call('ZADD', retry, struct.unpack('<d', tail), row)
    elseif kind == 'B' then
      m.move(row, byte, send == 1 and STATE.pending or STATE.retrying, send - 1)
      redis.call('ZADD', retry, struct.unpack('<d', tail), row)
    elseif kind == 'D' and was == STATE.in_flight then
      m.move(row, byte, STATE.in_doubt, send, second)
      redis.call('HSET', why, row, code)
      redis.call('ZADD', doubt, struct.unpack('<d', tail), row)
    elseif kind == 'D' then
      redis.call('ZADD', doubt, struct.unpack('<d', tail), row)
    end
  elseif kind == 'A' and current == send and RANK[was] < RANK[STATE.accepted] then
    -- Expired or cancelled meanwhile, and yet Meta has it.
    redis.call('ZREM', retry, row)
    m.move(row, byte, STATE.accepted, send, second)
    accepted = accepted + 1
  end
end

if #kept > 0 and redis.call('RPUSH', ids, table.concat(kept)) == 1 then redis.call('PEXPIRE', ids, ARGV[2]) end
if accepted > 0 then
  -- Ten slots of one second each: the rate of the campaign over the last seconds.
  local slot = 'r' .. (second % 10)
  local stamp, n = string.match(redis.call('HGET', meta, slot) or '', '^(%d+):(%d+)$')
  if tonumber(stamp) ~= second then n = 0 end
  redis.call('HSET', meta, slot, second .. ':' .. (tonumber(n) + accepted))
end
return m.commit()
