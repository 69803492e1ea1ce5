-- Creates a campaign as a draft.
--
-- KEYS     campaign
-- ARGV     definition (JSON), now (ms)
-- Returns  1 if created, 0 if it exists already.
-- If repeated: changes nothing.
if redis.call('HSETNX', KEYS[1], 'definition', ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'state', 'draft', 'version', 0, 'applied', 0, 'parts', 0, 'numbers', 0, 'buckets', 1, 'index', 'person', 'created', ARGV[2])
return 1
