-- Merges statuses and replies of Meta, whoever brings them and in whatever order.
--
-- KEYS  meta, state, history, retry, doubt, why, replied
-- ARGV  packed facts of 12 bytes: u16 row, u8 send (0: whichever was the last), u8 state (15: the recipient replied), u32 code, u32 time in s
-- Gives {applied, open recipients of the part, then per fact 1 applied, 0 known or outranked, 2 of an earlier send}.
-- Again: nothing changes: a fact moves a recipient to a higher rank only.
local meta, state, history, retry, doubt, why, replied = unpack(KEYS)
local facts = ARGV[1]
local m, applied, results = moves(meta, state, history), 0, {}

for pos = 1, #facts, 12 do
  local row, send, to, code, at = struct.unpack('<I2BBI4I4', facts, pos)
  local byte = m.byte(row)
  local was, current = byte % 16, math.floor(byte / 16)
  local result = 0
  if was == 0 or current == 0 or (send ~= 0 and send ~= current) then
    result = 2
  elseif to == 15 then
    if redis.call('SETBIT', replied, row, 1) == 0 then
      m.count('replied', 1)
      result = 1
    end
  elseif RANK[to] > RANK[was] then
    if was == STATE.in_doubt then redis.call('ZREM', doubt, row) end
    if was == STATE.retrying then redis.call('ZREM', retry, row) end
    if current > 1 or was ~= STATE.accepted and was ~= STATE.sent then forget_why(m, why, row, was) end
    m.move(row, byte, to, current, at)
    if to == STATE.failed then
      redis.call('HSET', why, row, code)
      m.count('f' .. code, 1)
    end
    result = 1
  end
  if result == 1 then applied = applied + 1 end
  results[#results + 1] = result
end
local open = m.commit()
return { applied, open, unpack(results) }
