-- Stores the outcomes of attempts. The caller may have lost its lease meanwhile: an outcome counts from any epoch,
-- because it is a fact about what Meta did.
--
-- KEYS     meta, state, history, sends, retry, doubt, codes, ids, tries, wamids, held, skips, withheld, before
-- ARGV     1 now (ms) · 2 lifetime of message ids (ms) · 3 epoch of the claims
--          4 acceptances, 11 bytes each, as stored in `ids`: u16 row, u8 send, 8 bytes fingerprint of the message id
--          5 history entries of the acceptances, 7 bytes each, logged if the row moves: u16 row, u8 state byte,
--            u32 time (s)
--          6 other outcomes, 16 bytes each: u16 row, u8 send, u8 kind, u32 code, 8 bytes time (ms) as a double
--          7 runs of rows accepted by their first send, 4 bytes each: u16 first row, u16 count. 4 and 5 begin with the
--            rows of these runs
--          8 claims without an outcome, 5 bytes each: u16 first row, u16 count, u8 send
--          9 doubt deadline (ms) of such a claim if a newer epoch has the part
--          10 acceptances whose message Meta keeps back, 3 bytes each: u16 row, u8 send. These acceptances are in 4, 5
--            and 7 too
--          11 and so on, for each block of rows with acceptances: its number, the whole message ids to append to it, as
--            stored in `wamids`
-- Kinds    A accepted: given in 4, never in 6
--          C claimed: given in 8, never in 6
--          R certainly not sent, retry at the time, the attempt counts
--          W as R if the row was not withheld before, else as F
--          B certainly not sent, retry at the time, the attempt does not count
--          D in doubt until the time
--          F refused by Meta
--          S certainly not sent, and skipped for the reason in `code`
--          In a cancelled campaign R and B cancel the row. In a completed campaign R refuses the row with its code,
--          and B makes it unknown. An unknown row of a completed campaign is unchanged by R, B and S. If one of these
--          would end a row that was sent before, the row returns to its earlier state instead (see `go_back`).
-- Returns  {open recipients of the part;
--          1 if the part may be missing from the line's work, else 0: a newer epoch has the part, and may have removed
--          it from the work before this call reopened a row;
--          1 if the campaign has ended and this call brought message ids that have to be indexed, else 0}.
-- If repeated: changes nothing. A row whose outcome is stored accepts no other outcome of that send. A row that a
-- status has moved on is no longer accepted, so it is not held again.
--
-- An outcome has the same effect if Redis lost the claim that led to it.
local meta, state, history, sends, retry, doubt, codes, ids, tries, wamids, held, skips, withheld, before = unpack(KEYS)
local now, acceptances, entries, others, runs, claims = tonumber(ARGV[1]), ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local second = math.floor(now / 1000)
local m, accepted = moves(meta, state, history, sends, held, skips), 0

local record = redis.call('HMGET', meta, 'gate', 'epoch')
-- The campaign was deleted together with its parts.
if not record[1] and redis.call('EXISTS', meta) == 0 then return { 0, 0, 0 } end
local cancelled, completed = record[1] == 'cancelled', record[1] == 'completed'
local taken_over = tonumber(ARGV[3]) < (tonumber(record[2]) or 0)

local function settle(row, send, kind, code, time)
  local byte = m.byte(row)
  local was, current, is_restored = byte % 16, m.send(row, byte), false
  -- Redis lost this claim and the change that made the row claimable: restore the claim. If the row has ended since, or
  -- the retention of the recipients has, only an acceptance counts. If the recipient has got an earlier message, the
  -- row stays delivered or read.
  local can_restore = was ~= 0 and RANK[was] ~= RANK[STATE.cancelled] and RANK[was] < RANK[STATE.delivered]
  if newer(send, current) and can_restore and not m.retention_ended() then
    local sent_before
    if claimable(was) then
      sent_before = state_before(tonumber(redis.call('ZSCORE', retry, row) or 0))
    elseif was == STATE.failed or was == STATE.refused then
      sent_before = was
      count_failure(m, codes, row, -1)
    elseif RANK[was] >= RANK[STATE.unknown] then
      -- Redis also lost why the message of an accepted or sent row was sent again.
      sent_before = STATE.unknown
    end
    if sent_before then note_before(before, codes, row, sent_before) end
    redis.call('ZREM', retry, row)
    redis.call('ZREM', doubt, row)
    local to = kind == 'C' and taken_over and STATE.in_doubt or STATE.in_flight
    if to == STATE.in_doubt then redis.call('ZADD', doubt, ARGV[9], row) end
    m.move(row, byte, to, send, second)
    byte, was, current, is_restored = m.byte(row), to, send, true
  end
  -- Only the attempt of the row's last claim may settle the row, even if the row was put in doubt meanwhile.
  local may_settle = kind ~= 'C' and current == send and unanswered(was)
  -- A doubt that has ended does not begin again, and a completed campaign sends nothing again.
  if was == STATE.unknown and (kind == 'D' or completed and kind ~= 'A' and kind ~= 'F') then may_settle = false end
  if was == STATE.unknown and kind ~= 'A' and redis.call('HGET', before, row) == BACK then may_settle = false end
  -- A row in flight was claimed by the newest epoch. An outcome from an older epoch with the same send number is
  -- about an earlier claim, and counts only if Meta accepted the message.
  if taken_over and was == STATE.in_flight and not is_restored and kind ~= 'A' then may_settle = false end
  if may_settle then
    if was ~= STATE.in_flight then redis.call('ZREM', doubt, row) end
    local has_past = send > 1 or was ~= STATE.in_flight
    if has_past then clear_code(m, codes, row, was) end
    if kind == 'W' then
      local is_first = not completed and (m.retention_ended() or redis.call('SETBIT', withheld, row, 1) == 0)
      kind = is_first and 'R' or 'F'
    end
    local ends_unsent = kind == 'S' or (cancelled or completed) and (kind == 'R' or kind == 'B')
    if has_past and (kind == 'A' or kind == 'F') then redis.call('HDEL', before, row) end
    if ends_unsent and send > 1 and go_back(m, codes, before, row, byte, 0, second) then
      -- The row has ended.
    elseif kind == 'A' then
      m.move(row, byte, STATE.accepted, send, second)
      accepted = accepted + 1
    elseif kind == 'F' or kind == 'R' and completed then
      m.move(row, byte, STATE.refused, send, second)
      set_code(m, codes, row, code)
      m.count('f' .. code, 1)
    elseif kind == 'S' then
      m.skip(row, byte, send, second, code)
    elseif cancelled and (kind == 'R' or kind == 'B') then
      m.move(row, byte, STATE.cancelled, send, second)
    elseif completed and kind == 'B' then
      m.move(row, byte, STATE.unknown, send, second)
    elseif kind == 'R' then
      m.move(row, byte, STATE.retrying, send, second)
      set_code(m, codes, row, code)
      redis.call('HINCRBY', tries, row, 1)
      redis.call('ZADD', retry, struct.unpack('<d', time), row)
    elseif kind == 'B' then
      m.move(row, byte, send > 1 and state_to_claim(tries, row) or STATE.pending, send)
      redis.call('ZADD', retry, struct.unpack('<d', time), row)
    elseif kind == 'D' and was == STATE.in_flight then
      m.move(row, byte, STATE.in_doubt, send, second)
      set_code(m, codes, row, code)
      redis.call('ZADD', doubt, struct.unpack('<d', time), row)
    elseif kind == 'D' then
      redis.call('ZADD', doubt, struct.unpack('<d', time), row)
    end
  elseif
    kind == 'A' and was ~= 0 and (current == send or newer(send, current)) and RANK[was] < RANK[STATE.accepted]
    and not (claimable(was) and is_reopened(retry, row))
  then
    -- The row expired or was cancelled meanwhile, or Redis lost its claim, but Meta has the message.
    redis.call('ZREM', retry, row)
    redis.call('ZREM', doubt, row)
    redis.call('HDEL', before, row)
    clear_code(m, codes, row, was)
    m.move(row, byte, STATE.accepted, send, second)
    accepted = accepted + 1
  end
end

-- Nearly all outcomes are accepted first attempts, in the order of their claim: a run of these is moved as a whole.
-- Runs come first, because `m` later writes back the bytes around a changed row as it read them.
local FIRST, DONE = 16 + STATE.in_flight, 16 + STATE.accepted
local n_in_runs, singles = 0, {}
local from = 1
for pos = 1, #runs, 4 do
  local first, count = struct.unpack('<I2I2', runs, pos)
  local to = from + count - 1
  if redis.call('GETRANGE', state, first, first + count - 1) == string.rep(string.char(FIRST), count) then
    redis.call('SETRANGE', state, first, string.rep(string.char(DONE), count))
    m.log(string.sub(entries, from * 7 - 6, to * 7))
    n_in_runs = n_in_runs + count
  else
    singles[#singles + 1] = { from, to }
  end
  from = to + 1
end
singles[#singles + 1] = { from, #acceptances / 11 }
if n_in_runs > 0 then
  m.count(NAME[STATE.in_flight], -n_in_runs)
  m.count(NAME[STATE.accepted], n_in_runs)
  accepted = n_in_runs
end
for _, range in ipairs(singles) do
  for i = range[1], range[2] do
    local low, high, send = string.byte(acceptances, i * 11 - 10, i * 11 - 8)
    local row = low + 256 * high
    if send == 1 and m.byte(row) == FIRST then
      m.put(row, FIRST, DONE)
      m.log(string.sub(entries, i * 7 - 6, i * 7))
      accepted = accepted + 1
    else
      settle(row, send, 'A')
    end
  end
end

for pos = 1, #claims, 5 do
  local first, count, send = struct.unpack('<I2I2B', claims, pos)
  for row = first, first + count - 1 do settle(row, send, 'C') end
end

for pos = 1, #others, 16 do
  local row, send, kind, code, time = struct.unpack('<I2Bc1I4c8', others, pos)
  settle(row, send, kind, code, time)
end

for pos = 1, #ARGV[10], 3 do
  local row, send = struct.unpack('<I2B', ARGV[10], pos)
  m.hold(row, send, ARGV[1])
end

if accepted > 0 then m.count_accepted(second, accepted) end
local open = m.commit()
store_ids(m, ids, acceptances, ARGV[2])
store_wamids(m, wamids, { unpack(ARGV, 11) }, ARGV[2])
return { open, taken_over and open > 0 and 1 or 0, #acceptances > 0 and m.has_ended() and 1 or 0 }
