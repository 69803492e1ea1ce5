-- Sets a completed campaign running again, to send to some of its recipients again. Its parts follow later: they reopen
-- those recipients while their gates have the version before the new one (see `reopen.lua`).
--
-- KEYS     campaign
-- ARGV     now (ms), which recipients (JSON)
-- Returns  {1, new version};
--          {0, current state} if the campaign is not completed, {0, ''} if there is no such campaign;
--          {2, ''} if the data of its recipients have been deleted.
-- If repeated: returns {0, 'running'}, because the first call left the state.
local record = redis.call('HMGET', KEYS[1], 'state', 'forgotten')
if record[1] ~= 'completed' then return { 0, record[1] or '' } end
if record[2] then return { 2, '' } end
local version = redis.call('HINCRBY', KEYS[1], 'version', 2)
redis.call('HSET', KEYS[1], 'state', 'running', 'reason', '', 'changed', ARGV[1], 'retry', ARGV[2], 'retry_version', version)
redis.call('HDEL', KEYS[1], 'ended')
return { 1, tostring(version) }
