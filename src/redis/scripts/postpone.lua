-- Sets when a campaign next needs maintenance, or removes it from the list.
--
-- KEYS     active
-- ARGV     campaign, score that the caller read, next score (Unix ms; empty: remove the campaign)
-- Returns  1 if done, 0 if the score has changed since the caller read it; then it stays.
-- If repeated: changes nothing.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if ARGV[3] == '' then return redis.call('ZREM', KEYS[1], ARGV[1]) end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 1
