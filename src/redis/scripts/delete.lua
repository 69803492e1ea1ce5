-- Deletes a campaign. The caller deletes the keys of the campaign that are not listed here.
--
-- KEYS     campaign, outbox, ids of its uploads
-- Returns  {parts, buckets in its index, {ids of its uploads}}; nil if there is no such campaign.
-- If repeated: returns nil.
local record = redis.call('HMGET', KEYS[1], 'parts', 'buckets')
if not record[1] then return false end
local uploads = redis.call('SMEMBERS', KEYS[3])
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return { tonumber(record[1]), tonumber(record[2]), uploads }
