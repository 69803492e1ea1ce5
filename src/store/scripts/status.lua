-- Merges statuses and replies of Meta, whoever brings them and in whatever order.
--
-- KEYS  meta, state, history, retry, doubt, why, replied, ids
-- ARGV  lifetime of message ids (ms), packed facts of 20 bytes: u16 row, u8 send (0: whichever was the last), u8 state (15: the
--       recipient replied), u32 code, u32 time in s, 8 bytes: fingerprint of the message id (zeros: not told)
-- Gives {applied, open recipients of the part, then per fact 1 applied, 0 known or outranked, 2 of an earlier send}.
-- Again: nothing changes: a fact moves a recipient to a higher rank only.
local meta, state, history, retry, doubt, why, replied, ids = unpack(KEYS)
local facts, untold = ARGV[2], string.rep('\0', 8)
local m, kept, applied, results = moves(meta, state, history), {}, 0, {}

for pos = 1, #facts, 20 do
  local row, send, to, code, at, id = struct.unpack('<I2BBI4I4c8', facts, pos)
  local byte = m.byte(row)
  local was, current = byte % 16, math.floor(byte / 16)
  local result = 0
  -- Of a claim that Redis forgot: Meta has the message, and it is not to be sent again.
  if RANK[was] < RANK[STATE.accepted] and newer(send, current) then current = send end
  if was == 0 or current == 0 or (send ~= 0 and send ~= current) then
    result = 2
  elseif to == 15 then
    if redis.call('SETBIT', replied, row, 1) == 0 then
      m.count('replied', 1)
      result = 1
    end
  elseif RANK[to] > RANK[was] then
    -- Meta names the message before our own answer came, or instead of it: a later status may come by the message id alone.
    if RANK[was] < RANK[STATE.accepted] and id ~= untold then kept[#kept + 1] = struct.pack('<I2Bc8', row, current, id) end
    if was == STATE.in_doubt then redis.call('ZREM', doubt, row) end
    if claimable(was) then redis.call('ZREM', retry, row) end
    local may_have_why = was ~= STATE.accepted and was ~= STATE.sent and was ~= STATE.delivered
    if current > 1 or may_have_why then forget_why(m, why, row, was) end
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
if #kept > 0 and redis.call('RPUSH', ids, table.concat(kept)) == 1 then redis.call('PEXPIRE', ids, ARGV[1]) end
local open = m.commit()
return { applied, open, unpack(results) }
