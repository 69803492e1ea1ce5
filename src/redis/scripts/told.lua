-- Stores how many entries of a part's history, or which version of a campaign, the feed has published.
--
-- KEYS     part or campaign
-- ARGV     the number
-- Returns  1.
-- If repeated: changes nothing. A part or campaign that was deleted stays deleted.
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'told', ARGV[1]) end
return 1
