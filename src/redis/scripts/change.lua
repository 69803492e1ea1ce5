-- Changes the state of a campaign. Its parts follow later: `applied` is the newest version that they follow.
--
-- KEYS     campaign, outbox
-- ARGV     states from which to change (separated by spaces), new state, now (ms), reason (JSON, or empty)
-- Returns  {1, new version};
--          {0, current state} if the state is none of these, or if the new state is completed and parts still have to
--            reopen recipients of a retry; {0, ''} if there is no such campaign;
--          {2, 0} if the outbox has admitted rows: drain it, then call again;
--          {3, 0} if the draft has no recipients and is to be launched.
-- If repeated: returns {0, state}, because the first call left the states from which to change.
local campaign, outbox = KEYS[1], KEYS[2]
local record = redis.call('HMGET', campaign, 'state', 'started', 'numbers', 'retry_version', 'applied')
local allowed = false
for state in string.gmatch(ARGV[1], '%S+') do allowed = allowed or state == record[1] end
if not allowed then return { 0, record[1] or '' } end
local is_reopening = tonumber(record[4] or 0) > tonumber(record[5] or 0)
if ARGV[2] == 'completed' and is_reopening then return { 0, record[1] } end
-- Only a draft or a scheduled campaign takes recipients. The rows that it admitted must be recipients before any row
-- is claimed or swept, and before the campaign can be found complete. In any other state the outbox stays empty.
if (record[1] == 'draft' or record[1] == 'scheduled') and redis.call('EXISTS', outbox) == 1 then return { 2, 0 } end
if record[1] == 'draft' and ARGV[2] ~= 'cancelled' and record[3] == '0' then return { 3, 0 } end
redis.call('HSET', campaign, 'state', ARGV[2], 'reason', ARGV[4], 'changed', ARGV[3])
if ARGV[2] == 'running' and not record[2] then redis.call('HSET', campaign, 'started', ARGV[3]) end
if ARGV[2] == 'completed' or ARGV[2] == 'cancelled' then redis.call('HSET', campaign, 'ended', ARGV[3]) end
return { 1, redis.call('HINCRBY', campaign, 'version', 1) }
