-- Removes the suppression of a person by a business.
--
-- KEYS     suppressed
-- ARGV     1 the person's hash (8 bytes)
-- Returns  1 if the person was suppressed, else 0.
-- If repeated: returns 0. Workers keep the hash in their filters, but their lookups then find no entry.
local RECORD = 18
local field, rest = string.sub(ARGV[1], 1, 2), string.sub(ARGV[1], 3)
local records = redis.call('HGET', KEYS[1], field) or ''
for at = 1, #records, RECORD do
  if string.sub(records, at, at + 5) == rest then
    local others = string.sub(records, 1, at - 1) .. string.sub(records, at + RECORD)
    if others == '' then redis.call('HDEL', KEYS[1], field) else redis.call('HSET', KEYS[1], field, others) end
    redis.call('HINCRBY', KEYS[1], 'n', -1)
    return 1
  end
end
return 0
