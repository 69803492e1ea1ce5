-- Deletes an external id, if it refers to this campaign.
--
-- KEYS     external
-- ARGV     campaign
-- Returns  1 if deleted, else 0.
-- If repeated: changes nothing.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
