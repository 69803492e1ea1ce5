-- Changes a subscriber for an operator. The result of a delivery in flight is then not stored.
--
-- KEYS     subscriber
-- ARGV     a version that is new each time, then fields and values; an empty value removes the field
-- Returns  1.
-- If repeated: changes the same again.
redis.call('HSET', KEYS[1], 'version', ARGV[1])
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 1
