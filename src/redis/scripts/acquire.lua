-- Acquires a lease, or renews the caller's own.
--
-- KEYS     lease, epoch
-- ARGV     worker, duration (ms), epoch that the caller holds (0: none), epoch increment: random, from 1 to 1000
-- Returns  {1, epoch}, or {0, 0} if another worker holds the lease.
-- If repeated: the caller's lease is renewed.
--
-- The epoch is a number that rises at each takeover, at least to the clock's time in ms, so that a Redis that lost its
-- last second does not issue an epoch twice. If the clock was set back behind the stored epoch, the epoch rises by the
-- random increment instead. An epoch that Redis lost is then issued again with a probability of one in a thousand.
-- If another worker's lease has a TTL above the duration, the clock was set back after the lease was acquired. The TTL
-- is then cut to the duration.
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
