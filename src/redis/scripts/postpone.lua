-- Postpones the maintenance of a campaign, or ends it.
--
-- KEYS     active
-- ARGV     campaign, the score that the caller read, its next score (Unix ms; empty: remove the campaign)
-- Returns  1 if done, 0 if the campaign was listed anew meanwhile; the new score stays.
-- If repeated: changes nothing.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if ARGV[3] == '' then return redis.call('ZREM', KEYS[1], ARGV[1]) end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 1
