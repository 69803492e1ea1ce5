-- Begins the deletion of an ended campaign. From then on it counts as a campaign that does not exist.
--
-- KEYS     campaign
-- Returns  '' if the deletion has begun; the state of the campaign if it has not ended; nil if there is no such
--          campaign.
-- If repeated: changes nothing, and returns ''.
local record = redis.call('HMGET', KEYS[1], 'state', 'deleted')
if not record[1] then return false end
if record[2] then return '' end
if record[1] ~= 'completed' and record[1] ~= 'cancelled' then return record[1] end
-- For a process of a release without the field `deleted`, the campaign is cancelled, so it never runs again.
redis.call('HSET', KEYS[1], 'state', 'cancelled', 'deleted', 1)
return ''
