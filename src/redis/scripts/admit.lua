-- The commit point of an upload: refuses numbers that the campaign has, keeps the others in the index of numbers, records how far
-- the upload came, and leaves in the outbox which rows are to become recipients. All or nothing.
--
-- KEYS  campaign, upload, rejections, outbox, ids of uploads, buckets of the index that the numbers fall into
-- ARGV  1 buckets of the index as the caller knows them · 2 numbers that a bucket may hold on average
--       3 rows taken before · 4 rows taken after · 5 digest after · 6 done: 1 or 0
--       7 what is said of a duplicate: %d for its row, %s for the field of its line, %d for the end of its number · 8 rejections kept at most · 9 lifetime of the upload's record (ms)
--       10 chunks, 8 bytes each: u32 part, u16 first row, u16 rows - 1
--       11 numbers in the order of the chunks: u16 bucket (position in KEYS after the fifth, from 0), 7 bytes field, u32 row of the
--          upload, rising, and with its length (u8) before it the place as text: part * 65536 + row in the part
--       12 id of the upload
--       13 for each number in the same order 6 bytes: u32 line in the file (0: not known), u16 its last four digits
--       14… rejections found by the caller: row, rising, and JSON of each
-- Gives {'ok', accepted, rejected in all, numbers in the index, {chunks of which no row was accepted, from 1}};
--       {'state', state} where the campaign takes no recipients any more, with an empty state without such a campaign; {'moved'} where another connection carries the same upload;
--       {'grow', buckets, numbers} where the index has grown meanwhile, or is too small.
-- Again: the second call says {'moved'}: what the first did is in the upload's record and in the outbox.
local campaign, upload, rejections, outbox, uploads = unpack(KEYS, 1, 5)
local at = redis.call('HMGET', campaign, 'state', 'buckets', 'numbers')
if not at[1] then return { 'state', '' } end
-- Before the state: the other connection may have brought the whole upload, and the campaign was launched since.
if (redis.call('HGET', upload, 'taken') or '0') ~= ARGV[3] then return { 'moved' } end
if at[1] ~= 'draft' and at[1] ~= 'scheduled' then return { 'state', at[1] } end
local buckets, in_index = tonumber(at[2]), tonumber(at[3])
local coming = 0
for chunk = 1, #ARGV[10], 8 do coming = coming + struct.unpack('<I2', ARGV[10], chunk + 6) + 1 end
if at[2] ~= ARGV[1] or in_index + coming > buckets * ARGV[2] then return { 'grow', buckets, in_index } end

local kept, kept_max, rejected, accepted = redis.call('LLEN', rejections), tonumber(ARGV[8]), 0, 0
local function reject(json)
  if kept < kept_max then
    redis.call('RPUSH', rejections, json)
    kept = kept + 1
  end
  rejected = rejected + 1
end
-- The caller's rejections and the duplicates, in the order of the rows.
local told, told_row = 14, tonumber(ARGV[14]) or math.huge
local function reject_before(row)
  while told_row < row do
    reject(ARGV[told + 1])
    told = told + 2
    told_row = tonumber(ARGV[told]) or math.huge
  end
end

-- `nth` counts the numbers of this call, from 1.
local function reject_duplicate(row, nth)
  local line, digits = struct.unpack('<I4I2', ARGV[13], nth * 6 - 5)
  reject(string.format(ARGV[7], row, line > 0 and '"line":' .. line .. ',' or '', digits))
end

local call, read, keys, numbers, pos, unused, before = redis.call, struct.unpack, KEYS, ARGV[11], 1, {}, 0
for chunk = 1, #ARGV[10], 8 do
  local part, start, rows = struct.unpack('<I4I2I2', ARGV[10], chunk)
  local mask, accepted_before = {}, accepted
  for i = 1, rows + 1 do
    local bucket, field, row, place, after = read('<I2c7I4I1c0', numbers, pos)
    pos = after
    if told_row < row then reject_before(row) end
    if call('HSETNX', keys[6 + bucket], field, place) == 1 then
      mask[i] = '\1'
      accepted = accepted + 1
    else
      mask[i] = '\0'
      reject_duplicate(row, before + i)
    end
  end
  before = before + rows + 1
  if accepted > accepted_before then
    redis.call('HSET', outbox, part .. ':' .. start, table.concat(mask))
  else
    unused[#unused + 1] = (chunk + 7) / 8
  end
end
reject_before(math.huge)

redis.call('HSET', campaign, 'numbers', in_index + accepted)
redis.call('HSET', upload, 'taken', ARGV[4], 'digest', ARGV[5], 'done', ARGV[6])
redis.call('HINCRBY', upload, 'accepted', accepted)
rejected = redis.call('HINCRBY', upload, 'rejected', rejected)
redis.call('PEXPIRE', upload, ARGV[9])
redis.call('PEXPIRE', rejections, ARGV[9])
redis.call('SADD', uploads, ARGV[12])
if redis.call('PTTL', uploads) < tonumber(ARGV[9]) then redis.call('PEXPIRE', uploads, ARGV[9]) end
return { 'ok', accepted, rejected, in_index + accepted, unused }
