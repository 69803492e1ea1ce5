-- Merges statuses and replies from Meta, from any source and in any order.
--
-- KEYS     meta, state, history, sends, retry, doubt, codes, replied, ids, tries, wamids, held, skips, withheld, before
-- ARGV     1 lifetime of message ids (ms)
--          2 packed facts of 14 bytes: u16 row, u8 send (0: the last one), u8 state (11: withheld, 14: returned, 15:
--            the recipient replied), u32 code, u32 time (s), u16 length of its message id in 3 (0: not known)
--          3 the message ids of the facts, in their order: 8 bytes fingerprint, then the whole id. Apart from the
--            facts, because few are needed, and a text in Lua costs as much as the rest of a fact
--          4 rows of a block in `wamids` · 5 least time (ms) until a withheld message is sent again
-- Returns  {number of facts applied, open recipients of the part, 1 if the campaign has ended and the part has message
--          ids to index (else 0), then one result for each fact: 1 applied, 0 repeated or outranked, 2 about an earlier
--          send, 3 reopened}.
-- If repeated: changes nothing. Only `returned` and `withheld` move a recipient to a lower rank, and do so once for
-- each send.
--
-- Returned means that Meta did not deliver the message, and that neither the recipient nor the message caused that.
-- While the campaign runs or is paused, the row can be claimed again at once, and its attempts are unchanged. The send
-- is used up: if the same status comes again, its result is 2. In a completed or cancelled campaign, and if the row was
-- cancelled or expired, the row fails with the code. Withheld means that Meta did not deliver the message because the
-- recipient gets much marketing. While the campaign runs or is paused, the row is sent again, later and as another
-- attempt, if it was not withheld before. Otherwise it fails. A fact about an earlier send, and about the last send of
-- a reopened row, counts only if it says that the recipient has the message: delivered, read or a reply. The row keeps
-- the number of its last send. Any status that moves a row also says that Meta no longer keeps its message back. After
-- the retention of the recipients no code, history or message id is stored, and a row that failed or was refused stays
-- so.
local meta, state, history, sends, retry, doubt, codes, replied, ids, tries, wamids, held, skips, withheld, before =
  unpack(KEYS)
local facts, known_ids, BLOCK, RETURNED, WITHHELD = ARGV[2], ARGV[3], tonumber(ARGV[4]), 14, STATE.skipped
local m, new_ids, applied, results = moves(meta, state, history, sends, held, skips), {}, 0, {}
local new_wamids, id_end = {}, 0

for pos = 1, #facts, 14 do
  local row, send, to, code, at, length = struct.unpack('<I2BBI4I4I2', facts, pos)
  id_end = id_end + length
  local byte = m.byte(row)
  local was, current = byte % 16, m.send(row, byte)
  local result, rank = 0, RANK[was]
  -- Whether Redis lost the claim of this send. The row then counts as in flight with this send number, unless the
  -- recipient has got an earlier message.
  local claim_lost = newer(send, current)
  if claim_lost then
    current = send
    if rank < RANK[STATE.delivered] then rank = RANK[STATE.in_flight] end
  end
  local is_withheld = to == WITHHELD
  local reopens = (to == RETURNED or is_withheld and redis.call('GETBIT', withheld, row) == 0)
    and RANK[was] ~= RANK[STATE.cancelled] and not m.has_ended()
  if to == RETURNED or is_withheld then to = STATE.failed end
  local is_earlier = send ~= 0 and send ~= current or claimable(was) and not claim_lost and is_reopened(retry, row)
  local was_received = to == STATE.delivered or to == STATE.read or to == 15
  if was == 0 or current == 0 or is_earlier and not was_received then
    result = 2
  elseif to ~= 15 and (was == STATE.failed or was == STATE.refused) and m.retention_ended() then
    -- The code under which the row is counted is no longer stored, so its counter could not be lowered.
    result = 0
  elseif to == 15 then
    if redis.call('SETBIT', replied, row, 1) == 0 then
      m.count('replied', 1)
      result = 1
    end
  elseif reopens and rank <= RANK[STATE.sent] or not reopens and RANK[to] > rank then
    -- This status came before the response to our request, or instead of it. Its message id is stored, because a later
    -- status may identify the message by nothing else.
    if rank < RANK[STATE.accepted] then m.count_accepted(at, 1) end
    if rank < RANK[STATE.accepted] and length > 0 then
      local id_start, block, of_send = id_end - length + 1, math.floor(row / BLOCK), send ~= 0 and send or current
      local fingerprint, whole = string.sub(known_ids, id_start, id_start + 7), string.sub(known_ids, id_start + 8, id_end)
      new_ids[#new_ids + 1] = struct.pack('<I2B', row, of_send) .. fingerprint
      new_wamids[block] = (new_wamids[block] or '') .. struct.pack('BB', row % BLOCK, of_send) .. whole
    end
    if was == STATE.in_doubt then redis.call('ZREM', doubt, row) end
    if claimable(was) then redis.call('ZREM', retry, row) end
    local may_have_code = was ~= STATE.accepted and was ~= STATE.sent and was ~= STATE.delivered
    if current > 1 or may_have_code then
      clear_code(m, codes, row, was)
      redis.call('HDEL', before, row)
    end
    if reopens then
      local due = RETURNED_DUE
      if is_withheld then
        redis.call('SETBIT', withheld, row, 1)
        redis.call('HINCRBY', tries, row, 1)
        -- Meta's time is rounded down to seconds: one more, so that the row never waits less.
        due = due + (at + 1) * 1000 + tonumber(ARGV[5])
      end
      m.move(row, byte, state_to_claim(tries, row), current, at)
      set_code(m, codes, row, code)
      redis.call('ZADD', retry, due, row)
      result = 3
    else
      m.move(row, byte, to, current, at)
      if to == STATE.failed then
        set_code(m, codes, row, code)
        m.count('f' .. code, 1)
      end
      result = 1
    end
  end
  if result == 1 or result == 3 then applied = applied + 1 end
  results[#results + 1] = result
end
local open = m.commit()
store_ids(m, ids, table.concat(new_ids), ARGV[1])
local blocks = {}
for block, added in pairs(new_wamids) do
  blocks[#blocks + 1] = block
  blocks[#blocks + 1] = added
end
store_wamids(m, wamids, blocks, ARGV[1])
local unindexed = m.has_ended() and redis.call('EXISTS', ids) or 0
return { applied, open, unindexed, unpack(results) }
