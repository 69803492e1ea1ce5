-- Reads the progress of an upload, and what the caller needs to continue it.
--
-- KEYS     campaign, upload, rejections, ids of uploads
-- ARGV     lifetime of the upload's record (ms), the lines that recipients are spread over
-- Returns  {state of the campaign, buckets in its index, phone numbers in the index, rows taken, digest of these
--          rows, done: 1 or 0, accepted, rejected, {rows given to each line so far}, whether its index has an entry for
--          each 'number' or each 'person'}; nil if there is no such campaign.
-- If repeated: the same. The script creates no key, since a record begins with the first admitted batch. It extends
-- the lifetime of an existing record.
local campaign = redis.call('HMGET', KEYS[1], 'state', 'buckets', 'numbers', 'index')
if not campaign[1] then return false end
redis.call('PEXPIRE', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[1])
if redis.call('PTTL', KEYS[4]) < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[4], ARGV[1]) end
local upload = redis.call('HMGET', KEYS[2], 'taken', 'digest', 'done', 'accepted', 'rejected')
local given = {}
for i = 2, #ARGV do given[i - 1] = tonumber(redis.call('HGET', KEYS[1], 'given:' .. ARGV[i])) or 0 end
return {
  campaign[1], tonumber(campaign[2]), tonumber(campaign[3]),
  tonumber(upload[1]) or 0, upload[2] or '', tonumber(upload[3]) or 0, tonumber(upload[4]) or 0, tonumber(upload[5]) or 0, given,
  campaign[4] or 'number',
}
