-- Reopens recipients of a part for a retry of the campaign: they can be claimed once more, with all their attempts.
-- Works through the part in several calls.
--
-- KEYS     meta, state, history, sends, retry, codes, tries
-- ARGV     1 version at which the gate of the part is held for this retry · 2 now (ms) · 3 limit (rows)
--          4 codes of the states to reopen, one byte each: failed, refused, unknown
--          5 and so on: the error codes to reopen; none: any
-- Returns  {1 if rows are left to check, else 0; rows reopened by this retry so far}. Call again while the first is 1.
-- If repeated: changes nothing. The part stores how far this retry has come. The script changes a part only while its
-- gate has the version in ARGV 1, so a later change of the campaign ends the reopening.
--
-- A reopened row keeps its send number and its code. Its score stands for its earlier state (see `is_reopened`). A fact
-- about its last send moves it only if the recipient got the message.
local meta, state, history, sends, retry, codes, tries = unpack(KEYS)
local now, limit = tonumber(ARGV[2]), tonumber(ARGV[3])
local record = redis.call('HMGET', meta, 'version', 'forgotten', 'reopened', 'erased')
local version, first, n = string.match(record[3] or '', '^(%d+) (%d+) (%d+)$')
if version == ARGV[1] then first, n = tonumber(first), tonumber(n) else first, n = 0, 0 end
if record[1] ~= ARGV[1] or record[2] then return { 0, n } end

local DUE = { [STATE.unknown] = 0.25, [STATE.failed] = RETURNED_DUE, [STATE.refused] = 0.75 }
local m = moves(meta, state, history, sends)
local next_row = retriable(state, codes, record[4], first, 4)
local row, is_retriable = next_row()
for _ = 1, limit do
  if not row then break end
  if is_retriable then
    local byte = m.byte(row)
    local was = byte % 16
    if was ~= STATE.unknown then count_failure(m, codes, row, -1) end
    redis.call('HDEL', tries, row)
    redis.call('ZADD', retry, DUE[was], row)
    m.move(row, byte, STATE.pending, m.send(row, byte), math.floor(now / 1000))
    n = n + 1
  end
  row, is_retriable = next_row()
end
m.set('reopened', ARGV[1] .. ' ' .. (row or redis.call('STRLEN', state)) .. ' ' .. n)
m.commit()
return { row and 1 or 0, n }
