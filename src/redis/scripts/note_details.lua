-- Stores the newest error text for a reason of a part.
--
-- KEYS     meta
-- ARGV     field of the reason, text
-- Returns  1, or 0 if the campaign was deleted together with its parts.
-- If repeated: changes nothing.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
