-- Admits a batch of an upload. Rejects phone numbers that the campaign already has, adds the others to the phone index,
-- records the progress of the upload, and puts the admitted rows into the outbox (see `uploads.rs`). The batch is
-- committed as a whole or not at all.
--
-- KEYS     campaign, upload, rejections, outbox, ids of uploads, index buckets that the phone numbers fall into
-- ARGV     1 buckets in the index, as the caller last read · 2 limit on the mean number of entries in a bucket
--          3 rows taken before this batch · 4 rows taken after it · 5 digest after it · 6 done: 1 or 0
--          7 rejection of a duplicate, JSON: %d for its row, %s for its field `line`, %d for its last four digits
--          8 maximum number of stored rejections · 9 lifetime of the upload's record (ms)
--          10 chunks, 8 bytes each: u32 part, u16 first row, u16 rows - 1
--          11 phone numbers in the order of the chunks, each: u16 bucket (index from 0 into KEYS after the fifth),
--             7 bytes index field, u32 row of the upload (ascending), u8 length of the text that follows, location as
--             decimal text: part * 65536 + row in the part
--          12 id of the upload
--          13 for each phone number, in the same order, 6 bytes: u32 line of the file (0: unknown),
--             u16 last four digits
--          14 the campaign's `grouping` that the caller read
--          15… rejections made by the caller: pairs of row (ascending) and JSON
-- Returns  {'ok', accepted in this batch, rejected in the upload so far, phone numbers in the index, {indexes from 1
--          of the chunks without an accepted row}};
--          {'state', state} if the campaign takes no more recipients; with an empty state if it does not exist;
--          {'moved'} if another connection has continued the same upload;
--          {'regrouped'} if the send window was switched to the recipients' time zones after the caller read
--          `grouping`;
--          {'grow', buckets in the index, phone numbers in the index} if the index has grown since the caller read
--          it, or has to grow first.
-- If repeated: returns {'moved'} and changes nothing.
local campaign, upload, rejections, outbox, uploads = unpack(KEYS, 1, 5)
local record = redis.call('HMGET', campaign, 'state', 'buckets', 'numbers', 'grouping')
if not record[1] then return { 'state', '' } end
-- Checked before the state: if another connection completed this upload, the campaign may have started since.
if (redis.call('HGET', upload, 'taken') or '0') ~= ARGV[3] then return { 'moved' } end
if record[1] ~= 'draft' and record[1] ~= 'scheduled' then return { 'state', record[1] } end
if (record[4] or '0') ~= ARGV[14] then return { 'regrouped' } end
local buckets, in_index = tonumber(record[2]), tonumber(record[3])
local incoming = 0
for chunk = 1, #ARGV[10], 8 do incoming = incoming + struct.unpack('<I2', ARGV[10], chunk + 6) + 1 end
if record[2] ~= ARGV[1] or in_index + incoming > buckets * ARGV[2] then return { 'grow', buckets, in_index } end

local stored, stored_max, rejected, accepted = redis.call('LLEN', rejections), tonumber(ARGV[8]), 0, 0
local function reject(json)
  if stored < stored_max then
    redis.call('RPUSH', rejections, json)
    stored = stored + 1
  end
  rejected = rejected + 1
end
-- Stores the caller's rejections of rows before `row`, so that these and the duplicates are listed in row order.
local next_arg, next_row = 15, tonumber(ARGV[15]) or math.huge
local function reject_before(row)
  while next_row < row do
    reject(ARGV[next_arg + 1])
    next_arg = next_arg + 2
    next_row = tonumber(ARGV[next_arg]) or math.huge
  end
end

-- `nth` is the position of the phone number in ARGV[11], from 1.
local function reject_duplicate(row, nth)
  local line, digits = struct.unpack('<I4I2', ARGV[13], nth * 6 - 5)
  reject(string.format(ARGV[7], row, line > 0 and '"line":' .. line .. ',' or '', digits))
end

local call, read, keys, numbers, pos, unused, before = redis.call, struct.unpack, KEYS, ARGV[11], 1, {}, 0
for chunk = 1, #ARGV[10], 8 do
  local part, start, rows = struct.unpack('<I4I2I2', ARGV[10], chunk)
  local mask, accepted_before = {}, accepted
  for i = 1, rows + 1 do
    local bucket, field, row, location, after = read('<I2c7I4I1c0', numbers, pos)
    pos = after
    if next_row < row then reject_before(row) end
    if call('HSETNX', keys[6 + bucket], field, location) == 1 then
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
