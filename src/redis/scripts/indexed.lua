-- Removes a campaign from the list of ended campaigns with unindexed message ids, unless it was added again.
--
-- KEYS     unindexed
-- ARGV     campaign, how often it had been added when the caller read the list
-- Returns  1 if removed, else 0.
-- If repeated: changes nothing.
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0) ~= tonumber(ARGV[2]) then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
