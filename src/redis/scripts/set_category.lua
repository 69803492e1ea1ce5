-- Stores the category that Meta gives the template of a campaign now.
--
-- KEYS     campaign
-- ARGV     category, as JSON
-- Returns  1 if the category changed, 0 if not or if there is no such campaign.
-- If repeated: changes nothing.
if redis.call('HEXISTS', KEYS[1], 'definition') == 0 then return 0 end
if redis.call('HGET', KEYS[1], 'category') == ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'category', ARGV[1])
return 1
