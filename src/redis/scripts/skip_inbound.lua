-- Counts the messages of a line so far as told by the feed, because there was no feed.
--
-- KEYS     stream
-- ARGV     consumer group
-- Returns  1 if the stream exists, else 0.
-- If repeated: counts the messages since the first call as told too.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '$')
return 1
