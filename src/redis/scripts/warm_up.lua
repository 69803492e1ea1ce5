-- Takes messages from the share of a day of a line's warm-up, or returns them.
--
-- KEYS     warm-up of the line
-- ARGV     1 number of the day · 2 share of the day (messages) · 3 messages to take; below 0: to return
-- Returns  the number of messages taken; 0 if the share is spent, or if a later day has begun.
-- If repeated: takes or returns them again. So after a lost response the line sends fewer messages on that day than it
-- could, and callers do not repeat a return.
local stored = redis.call('HMGET', KEYS[1], 'day', 'taken')
local day, share, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local today = tonumber(stored[1]) or -1
if day < today then return 0 end
local taken = day == today and tonumber(stored[2]) or 0
local change = wanted < 0 and math.max(wanted, -taken) or math.max(math.min(wanted, share - taken), 0)
redis.call('HSET', KEYS[1], 'day', day, 'taken', taken + change)
return math.max(change, 0)
