-- The commit point of an upload: refuses numbers that the campaign has, keeps the others in the index of numbers, records how far
-- the upload came, and leaves in the outbox which rows are to become recipients. All or nothing.
--
-- KEYS  campaign, upload, rejections, outbox, buckets of the index that the numbers fall into
-- ARGV  1 buckets of the index as the caller knows them · 2 rows taken before · 3 rows taken after · 4 digest after · 5 done: 1 or 0
--       6 what is said of a duplicate · 7 rejections kept at most · 8 lifetime of the rejections (ms)
--       9 chunks, 8 bytes each: u32 part, u16 first row, u16 rows - 1
--       10 numbers in the order of the chunks, 13 bytes each: u16 bucket (position in KEYS after the fourth, from 0), 7 bytes field, u32 row of the upload
--       11… rejections found by the caller (JSON)
-- Gives {'ok', accepted, rejected in all}; {'state', state} where the campaign takes no recipients any more; {'moved', rows taken} where another
--       connection carries the same upload; {'buckets', n} where the index grew meanwhile.
-- Again: the second call says {'moved'}: what the first did is in the upload's record and in the outbox.
local campaign, upload, rejections, outbox = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local at = redis.call('HMGET', campaign, 'state', 'buckets')
if at[1] ~= 'draft' and at[1] ~= 'scheduled' then return { 'state', at[1] or '' } end
local taken = redis.call('HGET', upload, 'taken')
if taken ~= ARGV[2] then return { 'moved', tonumber(taken) or -1 } end
if at[2] ~= ARGV[1] then return { 'buckets', tonumber(at[2]) } end

local kept = redis.call('LLEN', rejections)
local kept_max, rejected, accepted = tonumber(ARGV[7]), 0, 0
local function reject(json)
  if kept < kept_max then
    redis.call('RPUSH', rejections, json)
    kept = kept + 1
  end
  rejected = rejected + 1
end
for i = 11, #ARGV do reject(ARGV[i]) end

local numbers, pos = ARGV[10], 1
for chunk = 1, #ARGV[9], 8 do
  local part, start, rows = struct.unpack('<I4I2I2', ARGV[9], chunk)
  local mask = {}
  for i = 0, rows do
    local bucket, field, row, after = struct.unpack('<I2c7I4', numbers, pos)
    pos = after
    if redis.call('HSETNX', KEYS[5 + bucket], field, part * 65536 + start + i) == 1 then
      mask[i + 1] = '\1'
      accepted = accepted + 1
    else
      mask[i + 1] = '\0'
      reject(string.format(ARGV[6], row))
    end
  end
  redis.call('HSET', outbox, part .. ':' .. start, table.concat(mask))
end
if accepted > 0 then redis.call('HINCRBY', campaign, 'numbers', accepted) end
redis.call('HSET', upload, 'taken', ARGV[3], 'digest', ARGV[4], 'done', ARGV[5])
redis.call('HINCRBY', upload, 'accepted', accepted)
if kept > 0 then redis.call('PEXPIRE', rejections, ARGV[8]) end
return { 'ok', accepted, redis.call('HINCRBY', upload, 'rejected', rejected) }
