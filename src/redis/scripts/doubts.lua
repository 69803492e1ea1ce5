-- Ends the doubts whose deadline has passed: as unknown, or by sending again where the campaign asked for that.
--
-- KEYS  meta, state, history, sends, retry, doubt, why, tries
-- ARGV  now (ms), limit, attempts at most (0: never send again; nor is a cancelled campaign sent again)
-- Gives {next deadline or -1, open recipients of the part, rows ended}.
-- Again: a row that is no longer in doubt is left alone.
local meta, state, history, sends, retry, doubt, why, tries = unpack(KEYS)
local now, attempts = tonumber(ARGV[1]), tonumber(ARGV[3])
-- Nothing of a cancelled campaign is sent again.
if redis.call('HGET', meta, 'gate') == 'cancelled' then attempts = 0 end
local m, ended = moves(meta, state, history, sends), 0

for _, row in ipairs(redis.call('ZRANGEBYSCORE', doubt, '-inf', now, 'LIMIT', 0, ARGV[2])) do
  row = tonumber(row)
  local byte = m.byte(row)
  local send = m.send(row, byte)
  if byte % 16 == STATE.in_doubt then
    if (redis.call('HGET', tries, row) or 0) + 1 < attempts then
      redis.call('HINCRBY', tries, row, 1)
      m.move(row, byte, STATE.retrying, send, math.floor(now / 1000))
      redis.call('ZADD', retry, now, row)
    else
      m.move(row, byte, STATE.unknown, send, math.floor(now / 1000))
    end
    ended = ended + 1
  end
  redis.call('ZREM', doubt, row)
end
local open = m.commit()
local nearest = redis.call('ZRANGE', doubt, 0, 0, 'WITHSCORES')
return { tonumber(nearest[2]) or -1, open, ended }
