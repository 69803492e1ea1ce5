-- Appends message ids to buckets of a segment.
--
-- KEYS  segment
-- ARGV  when it expires (ms), then for each bucket its number and the records to append
-- Again: the ids are in it twice, which changes no answer.
for i = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], (redis.call('HGET', KEYS[1], ARGV[i]) or '') .. ARGV[i + 1])
end
redis.call('PEXPIREAT', KEYS[1], ARGV[1])
return 1
