-- Deletes a campaign. What it has beside these keys, the caller deletes.
--
-- KEYS  campaign, outbox, ids of its uploads
-- Gives {parts, buckets of its index, {ids of its uploads}}; nothing without such a campaign. Again: gives nothing.
local at = redis.call('HMGET', KEYS[1], 'parts', 'buckets')
if not at[1] then return false end
local uploads = redis.call('SMEMBERS', KEYS[3])
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return { tonumber(at[1]), tonumber(at[2]), uploads }
