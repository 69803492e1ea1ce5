-- Records that the parts of a campaign follow a version of its state.
--
-- KEYS     campaign
-- ARGV     version
-- Returns  1 if this is still the newest version, 0 if not; nil if there is no such campaign.
-- If repeated: changes nothing.
if redis.call('HEXISTS', KEYS[1], 'version') == 0 then return false end
if tonumber(ARGV[1]) > tonumber(redis.call('HGET', KEYS[1], 'applied') or 0) then redis.call('HSET', KEYS[1], 'applied', ARGV[1]) end
return redis.call('HGET', KEYS[1], 'version') == ARGV[1] and 1 or 0
