-- Merges statuses and replies of Meta, whoever brings them and in whatever order.
--
-- KEYS  meta, state, history, sends, retry, doubt, why, replied, ids, tries
-- ARGV  lifetime of message ids (ms), packed facts of 20 bytes: u16 row, u8 send (0: whichever was the last), u8 state (14: returned,
--       15: the recipient replied), u32 code, u32 time in s, 8 bytes: fingerprint of the message id (zeros: not told)
-- Returned: Meta did not deliver the message, and neither the recipient nor the message is to blame. While the campaign runs or is paused
--       the row can be claimed again at once, with its attempts as they were. That uses up the send: the same status again is about an
--       earlier one. In a completed or cancelled campaign, and where the row was ended unsent, the row failed with the code.
-- Gives {applied, open recipients of the part, 1 if the campaign has ended and the part has message ids to be indexed, then per fact
--       1 applied, 0 known or outranked, 2 of an earlier send, 3 reopened}.
--       After the retention of the recipients a fact moves bytes and counters only, and a row that failed or was refused stays so.
-- Again: nothing changes: a fact moves a recipient to a higher rank only, and uses up a send only once.
local meta, state, history, sends, retry, doubt, why, replied, ids, tries = unpack(KEYS)
local facts, untold = ARGV[2], string.rep('\0', 8)
local RETURNED = 14
local m, kept, applied, results = moves(meta, state, history, sends), {}, 0, {}

for pos = 1, #facts, 20 do
  local row, send, to, code, at, id = struct.unpack('<I2BBI4I4c8', facts, pos)
  local byte = m.byte(row)
  local was, current = byte % 16, m.send(row, byte)
  local result, rank = 0, RANK[was]
  -- Redis forgot a later claim: of that one nothing else is known.
  local forgotten = newer(send, current)
  if forgotten then
    current, rank = send, RANK[STATE.in_flight]
  end
  local reopens = to == RETURNED and RANK[was] ~= RANK[STATE.cancelled] and not m.has_ended()
  if to == RETURNED then to = STATE.failed end
  if was == 0 or current == 0 or (send ~= 0 and send ~= current) or claimable(was) and not forgotten and is_returned(retry, row) then
    result = 2
  elseif to ~= 15 and (was == STATE.failed or was == STATE.refused) and m.forgotten() then
    -- Under which code it is counted is not known any more.
    result = 0
  elseif to == 15 then
    if redis.call('SETBIT', replied, row, 1) == 0 then
      m.count('replied', 1)
      result = 1
    end
  elseif reopens and rank <= RANK[STATE.sent] or not reopens and RANK[to] > rank then
    -- Meta names the message before our own answer came, or instead of it: a later status may come by the message id alone.
    if rank < RANK[STATE.accepted] and id ~= untold then kept[#kept + 1] = struct.pack('<I2Bc8', row, current, id) end
    if was == STATE.in_doubt then redis.call('ZREM', doubt, row) end
    if claimable(was) then redis.call('ZREM', retry, row) end
    local may_have_why = was ~= STATE.accepted and was ~= STATE.sent and was ~= STATE.delivered
    if current > 1 or may_have_why then forget_why(m, why, row, was) end
    if reopens then
      m.move(row, byte, unsent(tries, row), current, at)
      keep_why(m, why, row, code)
      redis.call('ZADD', retry, RETURNED_DUE, row)
      result = 3
    else
      m.move(row, byte, to, current, at)
      if to == STATE.failed then
        keep_why(m, why, row, code)
        m.count('f' .. code, 1)
      end
      result = 1
    end
  end
  if result == 1 or result == 3 then applied = applied + 1 end
  results[#results + 1] = result
end
local open = m.commit()
keep_ids(m, ids, table.concat(kept), ARGV[1])
local unindexed = m.has_ended() and redis.call('EXISTS', ids) or 0
return { applied, open, unindexed, unpack(results) }
