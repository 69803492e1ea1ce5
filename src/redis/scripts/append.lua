-- Appends message ids to buckets of a segment of a line's index.
--
-- KEYS     segment
-- ARGV     expiry of the segment (Unix ms), then for each bucket: its number, the records to append
-- Returns  1.
-- If repeated: the ids are stored twice, which changes no search result.
for i = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], (redis.call('HGET', KEYS[1], ARGV[i]) or '') .. ARGV[i + 1])
end
redis.call('PEXPIREAT', KEYS[1], ARGV[1])
return 1
