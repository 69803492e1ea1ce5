-- Stores the result of a delivery, unless somebody else changed the subscriber since its fields were read.
--
-- KEYS     subscriber
-- ARGV     version when they were read, then fields and values; an empty value removes the field
-- Returns  1 if stored, otherwise 0.
-- If repeated: stores the same again, unless somebody else changed the subscriber meanwhile.
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 1
