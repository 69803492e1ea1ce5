-- Changes values of a campaign, unless the campaign has changed since the caller read it.
--
-- KEYS     campaign
-- ARGV     version that the caller read, number of recipients that the campaign must still have (empty: any), then
--          field and value (JSON), field and value, ...
-- Returns  1, or 0 if the campaign has another version or number of recipients by now, or does not exist.
-- If repeated: returns 0, because the first call raised the version. The caller reads the campaign again.
local campaign = KEYS[1]
local record = redis.call('HMGET', campaign, 'version', 'told', 'numbers')
if record[1] ~= ARGV[1] or ARGV[2] ~= '' and record[3] ~= ARGV[2] then return 0 end
redis.call('HSET', campaign, unpack(ARGV, 3))
redis.call('HINCRBY', campaign, 'changes', 1)
local version = redis.call('HINCRBY', campaign, 'version', 1)
-- Only values have changed. If the feed has published this version's state, the new version needs no event either.
if record[2] == ARGV[1] then redis.call('HSET', campaign, 'told', version) end
return 1
