-- Erases the number of a suppressed person, who stays suppressed.
--
-- KEYS     suppressed
-- ARGV     1 the person's hash (8 bytes)
-- Returns  {1 if the person is suppressed, else 0; 1 if a number was removed, else 0}.
-- If repeated: changes nothing, and the second number is 0.
local RECORD, NONE = 18, string.rep('\0', 7)
local field, rest = string.sub(ARGV[1], 1, 2), string.sub(ARGV[1], 3)
local records = redis.call('HGET', KEYS[1], field) or ''
for at = 1, #records, RECORD do
  if string.sub(records, at, at + 5) == rest then
    if string.sub(records, at + 6, at + 12) == NONE then return { 1, 0 } end
    redis.call('HSET', KEYS[1], field, string.sub(records, 1, at + 5) .. NONE .. string.sub(records, at + 13))
    return { 1, 1 }
  end
end
return { 0, 0 }
