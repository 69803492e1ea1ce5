-- Frees an external id, if it names this campaign.
--
-- KEYS  external
-- ARGV  campaign
-- Gives 1 if it did. Again: changes nothing.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
