-- Counts marketing messages that are about to leave towards the frequency caps of a business.
--
-- KEYS     marketing
-- ARGV     1 now (hours since 1970) · 2 how long a message is kept (hours after its own)
--          3 caps, 3 bytes each: u8 messages, u16 hours after its own in which a message counts, at most ARGV 2
--          4 messages, 9 bytes each: 2 bytes field, 7 bytes as below · 5 more fields from which to drop old messages
--          6 mode: 1 changes nothing, and only returns which messages may be sent
-- Returns  a byte for each message: 1 if it is counted and may be sent, 0 if its recipient has reached a cap.
-- If repeated: changes nothing. A message that was counted in the same hour is not counted again.
--
-- A field of `marketing` is the first two bytes of a hash. It has the messages to all people whose hashes begin with
-- these bytes, in the order in which they were counted, 9 bytes each: the next 4 bytes of the person's hash, 3 bytes
-- that identify the message among those to the person, u16 hour. Hours wrap around after seven years; old messages are
-- dropped long before.
local marketing = KEYS[1]
local now, keep, caps, messages, more = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local RECORD, HOURS, MAY, MAY_NOT = 9, 65536, string.char(1), string.char(0)
local sub, find = string.sub, string.find
local hour = struct.pack('<I2', now % HOURS)

-- The hours since the message at `at`; below 0 if the clock of the worker that counted it was ahead.
local function age(records, at)
  local low, high = string.byte(records, at + 7, at + 8)
  return (now - low - 256 * high + HOURS / 2) % HOURS - HOURS / 2
end

local function without_old(records)
  local at = 1
  while at < #records and age(records, at) > keep do at = at + RECORD end
  return string.sub(records, at)
end

local fields, buckets = {}, {}
local function add(field)
  if not buckets[field] then fields[#fields + 1], buckets[field] = field, '' end
end
for pos = 1, #messages, 9 do add(string.sub(messages, pos, pos + 1)) end
for pos = 1, #more, 2 do add(string.sub(more, pos, pos + 1)) end
local stored = redis.call('HMGET', marketing, unpack(fields))
for i, records in ipairs(stored) do buckets[fields[i]] = without_old(records or '') end

local allowed = {}
for pos = 1, #caps, 3 do
  local messages_max, hours = struct.unpack('<BI2', caps, pos)
  allowed[#allowed + 1] = { messages_max, hours }
end

-- Whether `record` is among `records`, and if not, whether its recipient has reached a cap. `at` is the position at
-- which the hash of the person is found first.
local function judge(records, record, at)
  local person, ages = string.sub(record, 1, 4), {}
  while at do
    local is_record = (at - 1) % RECORD == 0
    if is_record then
      if string.sub(records, at, at + RECORD - 1) == record then return true, false end
      ages[#ages + 1] = age(records, at)
    end
    at = string.find(records, person, is_record and at + RECORD or at + 1, true)
  end
  for _, cap in ipairs(allowed) do
    local n = 0
    for _, hours in ipairs(ages) do n = n + (hours <= cap[2] and 1 or 0) end
    if n >= cap[1] then return false, true end
  end
  return false, false
end

local results, counted = {}, false
for pos = 1, #messages, 9 do
  local field, record = sub(messages, pos, pos + 1), sub(messages, pos + 2, pos + 8) .. hour
  local records, is_counted, is_capped = buckets[field], false, false
  local at = find(records, sub(record, 1, 4), 1, true)
  if at then is_counted, is_capped = judge(records, record, at) end
  if not is_counted and not is_capped then buckets[field], counted = records .. record, true end
  results[#results + 1] = is_capped and MAY_NOT or MAY
end

if ARGV[6] == '1' then return table.concat(results) end
local changed, emptied = {}, {}
for i, field in ipairs(fields) do
  local records = buckets[field]
  if records == '' then
    if stored[i] then emptied[#emptied + 1] = field end
  elseif records ~= stored[i] then
    changed[#changed + 1] = field
    changed[#changed + 1] = records
  end
end
if #emptied > 0 then redis.call('HDEL', marketing, unpack(emptied)) end
if #changed > 0 then redis.call('HSET', marketing, unpack(changed)) end
if counted then redis.call('PEXPIRE', marketing, (keep + 1) * 3600000) end
return table.concat(results)
