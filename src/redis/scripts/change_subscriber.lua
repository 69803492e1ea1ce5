-- Changes fields of a subscriber. With a version, as a delivery passes it, the script changes nothing if the stored
-- version is another one. An operator's change passes no version and sets a new one, so that the result of a delivery
-- in flight is not stored.
--
-- KEYS     subscriber
-- ARGV     version that the caller read (empty: any), then fields and values; an empty value removes the field
-- Returns  1 if changed, otherwise 0.
-- If repeated: makes the same changes again, unless the version has changed.
if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 1
