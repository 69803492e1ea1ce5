-- Changes a subscriber: for an operator always, and for a delivery unless somebody else changed the subscriber since its
-- fields were read. A change by an operator sets another `version`, so the result of a delivery in flight is not stored.
--
-- KEYS     subscriber
-- ARGV     version when the fields were read (empty: any), then fields and values; an empty value removes the field
-- Returns  1 if changed, otherwise 0.
-- If repeated: changes the same again, unless somebody else changed the subscriber meanwhile.
if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 1
