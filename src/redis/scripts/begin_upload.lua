-- Says how far an upload came before its connection was cut, and what is needed to go on.
--
-- KEYS  campaign, upload, rejections, ids of uploads
-- ARGV  lifetime of the upload's record (ms), lines that recipients go to
-- Gives {state of the campaign, buckets of its index, numbers in it, rows taken, digest of them, done: 1 or 0, accepted, rejected,
--       {rows given to each line so far}}; nothing without such a campaign.
-- Again: the same. Nothing is stored before the first batch is admitted; a record that is there lives on.
local campaign = redis.call('HMGET', KEYS[1], 'state', 'buckets', 'numbers')
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
}
