-- Appends messages from people to the stream of their line, each once.
--
-- KEYS     stream, seen, seen before
-- ARGV     maximum length of the stream, retention (ms), then for each message: 8 bytes fingerprint of its id, the
--          message, and the recipient whose message it answers (empty: none)
-- Returns  for each message: 1 appended, 0 repeated, 2 the stream is full.
-- If repeated: changes nothing.
--
-- Readers of the stream are its consumer groups. Without one, the stream is trimmed to its maximum length, and expires
-- after the retention. With readers, an entry is only removed if every reader has acknowledged it: after the retention,
-- or if the stream has its maximum length. The stream is full if it still has that length afterwards. A call without
-- messages only removes such entries.
--
-- The fingerprints are in two generations of buckets. A generation ends with a million fingerprints or after an hour,
-- and is dropped when the next one ends.
local stream, seen, seen_before = unpack(KEYS)
local length_max, retention = tonumber(ARGV[1]), tonumber(ARGV[2])
local GENERATION, HOUR, BUCKETS, PRINT = 1000000, 3600000, 16384, 8
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Converts a list of alternating fields and values to a table.
local function by_field(list)
  local fields = {}
  for i = 1, #list, 2 do fields[list[i]] = list[i + 1] end
  return fields
end

local function parse(id)
  local ms, number = string.match(id, '(%d+)-(%d+)')
  return tonumber(ms), tonumber(number)
end

-- The id of the first entry that a reader has not acknowledged, and its time; nil without a reader.
local function first_unread()
  if redis.call('EXISTS', stream) == 0 then return nil end
  local first_ms, first_number
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    group = by_field(group)
    local ms, number
    if group.pending > 0 then
      ms, number = parse(redis.call('XPENDING', stream, group.name, '-', '+', 1)[1][1])
    else
      ms, number = parse(group['last-delivered-id'])
      number = number + 1
    end
    if not first_ms or ms < first_ms or ms == first_ms and number < first_number then
      first_ms, first_number = ms, number
    end
  end
  return first_ms and string.format('%.0f-%.0f', first_ms, first_number), first_ms
end

-- Whether a bucket of fingerprints contains `print`.
local function contains(bucket, print)
  local at = string.find(bucket, print, 1, true)
  while at and at % PRINT ~= 1 do at = string.find(bucket, print, at + 1, true) end
  return at ~= nil
end

local generation = redis.call('HMGET', seen, 'count', 'since')
local count, since = tonumber(generation[1]) or 0, tonumber(generation[2])
if since and (count >= GENERATION or now - since > HOUR) then
  redis.call('UNLINK', seen_before)
  redis.call('RENAME', seen, seen_before)
  redis.call('PEXPIRE', seen_before, 2 * HOUR)
  count, since = 0, nil
end
local has_before = redis.call('EXISTS', seen_before) == 1

local unread, unread_ms = first_unread()
local length = redis.call('XLEN', stream)
local function is_full()
  if not unread or length < length_max then return false end
  redis.call('XTRIM', stream, 'MINID', unread)
  length = redis.call('XLEN', stream)
  return length >= length_max
end

local results, appended, full = {}, 0, nil
for i = 3, #ARGV, 3 do
  local print, message, recipient = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local bucket = struct.unpack('<I2', print) % BUCKETS
  local known = redis.call('HGET', seen, bucket) or ''
  local is_known = contains(known, print) or has_before and contains(redis.call('HGET', seen_before, bucket) or '', print)
  local result = 0
  if not is_known then
    if full == nil or not full and length >= length_max then full = is_full() end
    if full then
      result = 2
    else
      if recipient == '' then
        redis.call('XADD', stream, '*', 'message', message)
      else
        redis.call('XADD', stream, '*', 'message', message, 'recipient', recipient)
      end
      redis.call('HSET', seen, bucket, known .. print)
      length, appended, result = length + 1, appended + 1, 1
    end
  end
  results[#results + 1] = result
end

if appended > 0 then
  redis.call('HSET', seen, 'count', count + appended, 'since', since or now)
  redis.call('PEXPIRE', seen, 2 * HOUR)
  redis.call('PEXPIRE', stream, retention)
end
local expired = now - retention
if unread then
  redis.call('XTRIM', stream, 'MINID', unread_ms <= expired and unread or string.format('%.0f', expired))
  redis.call('PERSIST', stream)
else
  redis.call('XTRIM', stream, 'MINID', string.format('%.0f', expired))
  redis.call('XTRIM', stream, 'MAXLEN', length_max)
end
return results
