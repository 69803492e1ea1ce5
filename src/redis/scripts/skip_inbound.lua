-- Marks all messages of a line so far as published, because the feed starts with new messages.
--
-- KEYS     stream
-- ARGV     consumer group
-- Returns  1 if the stream exists, else 0.
-- If repeated: also marks the messages since the first call.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '$')
return 1
