-- Takes a campaign off those with ids in the lists of its parts, unless it was named again since it was read.
--
-- KEYS  unindexed
-- ARGV  campaign, how often it had been named
-- Gives 1 if it did.
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0) ~= tonumber(ARGV[2]) then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
