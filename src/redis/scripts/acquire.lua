-- Takes a lease, or renews one's own.
--
-- KEYS  lease, epoch
-- ARGV  worker, length (ms), epoch held (0: none), rise: 1 to 1000, by chance
-- Gives {1, epoch} or {0, 0} where another worker holds it. The epoch rises at each take-over, and past the clock, so that a Redis
--       that forgot its last second never gives an epoch twice. Where the clock was set back and is behind the epochs, it rises
--       by chance: then one that was forgotten is given again once in a thousand times.
--       Another's lease that lasts longer than any can was given before the clock was set back: it ends in time.
-- Again: a lease that is one's own is renewed.
local lease, epoch = KEYS[1], KEYS[2]
local mine = ARGV[1] .. ' ' .. ARGV[3]
local held = redis.call('GET', lease)
if held == mine then
  redis.call('PEXPIRE', lease, ARGV[2])
  return { 1, tonumber(ARGV[3]) }
end
if held and redis.call('PTTL', lease) > tonumber(ARGV[2]) then redis.call('PEXPIRE', lease, ARGV[2]) end
if held or ARGV[3] ~= '0' then return { 0, 0 } end
local time = redis.call('TIME')
local next =
  math.max(tonumber(redis.call('GET', epoch) or 0) + ARGV[4], time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('SET', epoch, string.format('%.0f', next))
redis.call('SET', lease, string.format('%s %.0f', ARGV[1], next), 'PX', ARGV[2])
return { 1, next }
