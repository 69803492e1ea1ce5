-- Erases a person from the places of the messaging limit of a business. The place stays taken, by an anonymous entry.
--
-- KEYS     people, undelivered, windows
-- ARGV     1 person (8 bytes) · 2 anonymous entry in place of the person (8 bytes) · 3 and so on: the lines of the
--          business
-- Returns  1 if the person was in one of the keys, else 0.
-- If repeated: returns 0.
local people, undelivered, windows = unpack(KEYS)
local person = ARGV[1]
local counts_until = redis.call('ZSCORE', people, person)
if counts_until then
  redis.call('ZADD', people, counts_until, ARGV[2])
  redis.call('ZREM', people, person)
end
local removed = redis.call('HDEL', undelivered, person)
for i = 3, #ARGV do removed = removed + redis.call('ZREM', windows, person .. ARGV[i]) end
return (counts_until or removed > 0) and 1 or 0
