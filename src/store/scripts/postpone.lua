-- A campaign needs no care before a certain time, or none any more.
--
-- KEYS  active
-- ARGV  campaign, the score it was read with, its next score (empty: none)
-- Gives 1 done, 0 it was listed anew meanwhile, and stays. Again: changes nothing.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if ARGV[3] == '' then return redis.call('ZREM', KEYS[1], ARGV[1]) end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 1
