-- Ends doubts whose deadline has passed: the row is retried if it may have another attempt, else it becomes unknown.
--
-- KEYS     meta, state, history, sends, retry, doubt, codes, tries, before
-- ARGV     now (ms), limit (rows), attempts at most (0: never send again)
-- Returns  {next deadline or -1, open recipients of the part, rows that are unknown now, rows that are retried}.
-- If repeated: a row that is no longer in doubt is unchanged.
--
-- A retried row becomes unknown if nothing more is sent to it.
local meta, state, history, sends, retry, doubt, codes, tries, before = unpack(KEYS)
local now, attempts = tonumber(ARGV[1]), tonumber(ARGV[3])
-- A cancelled campaign resends nothing.
if redis.call('HGET', meta, 'gate') == 'cancelled' then attempts = 0 end
local m, unknown, retried = moves(meta, state, history, sends), 0, 0

for _, row in ipairs(redis.call('ZRANGEBYSCORE', doubt, '-inf', now, 'LIMIT', 0, ARGV[2])) do
  row = tonumber(row)
  local byte = m.byte(row)
  local send = m.send(row, byte)
  if byte % 16 == STATE.in_doubt then
    if (redis.call('HGET', tries, row) or 0) + 1 < attempts then
      redis.call('HINCRBY', tries, row, 1)
      m.move(row, byte, STATE.retrying, send, math.floor(now / 1000))
      redis.call('ZADD', retry, now, row)
      note_before(before, codes, row, STATE.unknown)
      retried = retried + 1
    else
      m.move(row, byte, STATE.unknown, send, math.floor(now / 1000))
      unknown = unknown + 1
    end
  end
  redis.call('ZREM', doubt, row)
end
local open = m.commit()
local earliest = redis.call('ZRANGE', doubt, 0, 0, 'WITHSCORES')
return { tonumber(earliest[2]) or -1, open, unknown, retried }
