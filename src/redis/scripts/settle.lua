-- Merges what attempts ended in. Facts are taken from any epoch: they are knowledge about the world.
--
-- KEYS  meta, state, history, sends, retry, doubt, why, ids, tries
-- ARGV  now (ms), lifetime of message ids (ms), epoch of the claims,
--       accepted ones of 11 bytes, as they are kept: u16 row, u8 send, 8 bytes: fingerprint of the message id,
--       their entries of 7 bytes in the history, should they move: u16 row, u8 byte, u32 time in s,
--       other outcomes of 16 bytes: u16 row, u8 send, u8 kind, u32 code, 8 bytes: a time in ms as a double,
--       runs of 4 bytes: u16 first row, u16 count. The accepted ones begin with these rows, each by its first send;
--       claims of 5 bytes, of which no more is known: u16 first row, u16 count, u8 send; deadline (ms) until which they are in doubt
--       where a newer epoch has the part meanwhile
-- Kinds A accepted, C claimed (these stand apart) · R certainly not sent, again at the time, the attempt counts · B certainly not sent,
--       again at the time, the attempt does not count · D in doubt until the time · F refused by Meta
--       What would be sent again of a cancelled campaign is cancelled. Of a completed one it stays unknown; if it was open still, R is
--       refused with its code, and B becomes unknown.
-- Gives {open recipients of the part, 1 if its line may no longer list it: a newer epoch has it, which may have taken it off its
--       work before this call reopened a row; 1 if the campaign has ended and message ids were added, which are to be indexed}.
-- Again: the same outcome twice changes nothing: each claim of a row has another send, and its state no longer matches that one.
--       Of a claim that Redis forgot it changes what it would have changed.
local meta, state, history, sends, retry, doubt, why, ids, tries = unpack(KEYS)
local now, kept, entries, others, runs, claims = tonumber(ARGV[1]), ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local second = math.floor(now / 1000)
local m, accepted = moves(meta, state, history, sends), 0

-- Ten slots of one second each: the rate of the campaign over the last seconds.
local slot = 'r' .. (second % 10)
local at = redis.call('HMGET', meta, 'gate', 'epoch', slot)
local cancelled, completed = at[1] == 'cancelled', at[1] == 'completed'
local taken_over = tonumber(ARGV[3]) < (tonumber(at[2]) or 0)

local function settle(row, send, kind, code, tail)
  local byte = m.byte(row)
  local was, current, is_told_now = byte % 16, m.send(row, byte), false
  -- A claim that Redis forgot, and with it what allowed the claim. Only what Meta has counts where the row was ended meanwhile, and where
  -- the retention of the recipients has ended.
  if newer(send, current) and was ~= 0 and RANK[was] ~= RANK[STATE.cancelled] and not m.forgotten() then
    redis.call('ZREM', retry, row)
    redis.call('ZREM', doubt, row)
    if was == STATE.failed or was == STATE.refused then count_failure(m, why, row, -1) end
    local to = kind == 'C' and taken_over and STATE.in_doubt or STATE.in_flight
    if to == STATE.in_doubt then redis.call('ZADD', doubt, ARGV[9], row) end
    m.move(row, byte, to, send, second)
    byte, was, current, is_told_now = m.byte(row), to, send, true
  end
  -- The way back is open only to the attempt that made the claim, also when it was put in doubt meanwhile.
  local mine = kind ~= 'C' and current == send and unanswered(was)
  -- A doubt that has ended does not begin again; nor does what is completed.
  if was == STATE.unknown and (kind == 'D' or completed and (kind == 'R' or kind == 'B')) then mine = false end
  -- A row in flight is of the newest epoch. Unless Meta has the message, an older one with that number tells of an earlier claim.
  if taken_over and was == STATE.in_flight and not is_told_now and kind ~= 'A' then mine = false end
  if mine then
    if was ~= STATE.in_flight then redis.call('ZREM', doubt, row) end
    if send > 1 or was ~= STATE.in_flight then forget_why(m, why, row, was) end
    if kind == 'A' then
      m.move(row, byte, STATE.accepted, send, second)
      accepted = accepted + 1
    elseif kind == 'F' or kind == 'R' and completed then
      m.move(row, byte, STATE.refused, send, second)
      keep_why(m, why, row, code)
      m.count('f' .. code, 1)
    elseif cancelled and (kind == 'R' or kind == 'B') then
      m.move(row, byte, STATE.cancelled, send, second)
    elseif completed and kind == 'B' then
      m.move(row, byte, STATE.unknown, send, second)
    elseif kind == 'R' then
      m.move(row, byte, STATE.retrying, send, second)
      keep_why(m, why, row, code)
      redis.call('HINCRBY', tries, row, 1)
      redis.call('ZADD', retry, struct.unpack('<d', tail), row)
    elseif kind == 'B' then
      m.move(row, byte, send > 1 and unsent(tries, row) or STATE.pending, send)
      redis.call('ZADD', retry, struct.unpack('<d', tail), row)
    elseif kind == 'D' and was == STATE.in_flight then
      m.move(row, byte, STATE.in_doubt, send, second)
      keep_why(m, why, row, code)
      redis.call('ZADD', doubt, struct.unpack('<d', tail), row)
    elseif kind == 'D' then
      redis.call('ZADD', doubt, struct.unpack('<d', tail), row)
    end
  elseif
    kind == 'A' and was ~= 0 and (current == send or newer(send, current)) and RANK[was] < RANK[STATE.accepted]
    and not (claimable(was) and is_returned(retry, row))
  then
    -- Expired or cancelled meanwhile, or taken for an earlier claim, and yet Meta has it.
    redis.call('ZREM', retry, row)
    redis.call('ZREM', doubt, row)
    forget_why(m, why, row, was)
    m.move(row, byte, STATE.accepted, send, second)
    accepted = accepted + 1
  end
end

-- Nearly all of them are first attempts that went well, in the order of their claim: a run of these is moved as a whole. Before anything
-- else, for `m` writes what it has read.
local FIRST, DONE = 16 + STATE.in_flight, 16 + STATE.accepted
local at_once, later = 0, {}
local from = 1
for pos = 1, #runs, 4 do
  local first, count = struct.unpack('<I2I2', runs, pos)
  local to = from + count - 1
  if redis.call('GETRANGE', state, first, first + count - 1) == string.rep(string.char(FIRST), count) then
    redis.call('SETRANGE', state, first, string.rep(string.char(DONE), count))
    m.log(string.sub(entries, from * 7 - 6, to * 7))
    at_once = at_once + count
  else
    later[#later + 1] = { from, to }
  end
  from = to + 1
end
later[#later + 1] = { from, #kept / 11 }
if at_once > 0 then
  m.count(NAME[STATE.in_flight], -at_once)
  m.count(NAME[STATE.accepted], at_once)
  accepted = at_once
end
for _, range in ipairs(later) do
  for i = range[1], range[2] do
    local low, high, send = string.byte(kept, i * 11 - 10, i * 11 - 8)
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
  local row, send, kind, code, tail = struct.unpack('<I2Bc1I4c8', others, pos)
  settle(row, send, kind, code, tail)
end

if accepted > 0 then
  local stamp, n = string.match(at[3] or '', '^(%d+):(%d+)$')
  if tonumber(stamp) ~= second then n = 0 end
  m.set(slot, second .. ':' .. (tonumber(n) + accepted))
end
local open = m.commit()
keep_ids(m, ids, kept, ARGV[2])
return { open, taken_over and open > 0 and 1 or 0, #kept > 0 and m.has_ended() and 1 or 0 }
