-- Creates a campaign, once.
--
-- KEYS  campaign
-- ARGV  definition (JSON), now (ms)
-- Gives 1 created, 0 it was there already. Again: changes nothing.
if redis.call('HSETNX', KEYS[1], 'definition', ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'state', 'draft', 'version', 0, 'applied', 0, 'parts', 0, 'numbers', 0, 'buckets', 1, 'created', ARGV[2])
return 1
