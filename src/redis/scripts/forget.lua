-- Marks an ended campaign whose retention is over: the data of its recipients are about to be deleted, and it never
-- runs again.
--
-- KEYS     campaign
-- ARGV     latest end (ms) of a campaign that may be marked
-- Returns  1 if it is marked, 0 if it runs again or ended later; nil if there is no such campaign.
-- If repeated: changes nothing, and returns 1.
local record = redis.call('HMGET', KEYS[1], 'state', 'ended', 'forgotten')
if not record[1] then return false end
if record[3] then return 1 end
local has_ended = record[1] == 'completed' or record[1] == 'cancelled'
if not has_ended or (tonumber(record[2]) or 0) > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'forgotten', 1)
return 1
