-- Takes places of the messaging limit of a business for messages that are about to leave.
--
-- KEYS     people, undelivered, windows
-- ARGV     1 now (ms) · 2 the limit in people (-1: none) · 3 how long a message keeps a place while it is not known to
--          be delivered (ms) · 4 line · 5 messages, 29 bytes each: 8 bytes person, 21 bytes message (16 bytes campaign,
--          u16 part, u16 row, u8 send)
-- Returns  {places taken, places left (-1: any number), when the next place becomes free (ms; -1: none is taken), since
--          when no place is left (ms; -1: a place is left), then for each message: 1 it may be sent, 0 it may not}.
-- If repeated: changes nothing. If the message was delivered in between, its place is kept for too long.
--
-- A person who counts already, or has an open service window with the line, takes no place. `undelivered` stores for
-- the last message of a person: time of the send, until when the person counts without it (both as doubles), and the
-- message. Its field `spent` is the time from which on no place was left.
local people, undelivered, windows = unpack(KEYS)
local now, limit, keep, line, messages = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
-- A message that leaves in the last minute of a window may arrive after it.
local WINDOW_MARGIN, FREED_MAX = 60000, 1000

local freed = redis.call('ZRANGEBYSCORE', people, '-inf', now, 'LIMIT', 0, FREED_MAX)
if #freed > 0 then
  redis.call('ZREM', people, unpack(freed))
  redis.call('HDEL', undelivered, unpack(freed))
end
local used = redis.call('ZCOUNT', people, '(' .. now, '+inf')

local function has_window(person)
  local ends = redis.call('ZSCORE', windows, person .. line)
  return ends and tonumber(ends) > now + WINDOW_MARGIN
end

-- The time until which the person counts even without the message; 0 for a person who does not.
local function counts_until(person, message, kept)
  local last = redis.call('HGET', undelivered, person)
  -- An earlier send of the same row needs no place of its own.
  if last and string.sub(last, 17, 36) == string.sub(message, 1, 20) then
    local _, before = struct.unpack('<dd', last)
    return before
  end
  return kept or 0
end

local results, taken = {}, false
for pos = 1, #messages, 29 do
  local person, message = string.sub(messages, pos, pos + 7), string.sub(messages, pos + 8, pos + 28)
  local result = 1
  if not has_window(person) then
    local kept = tonumber(redis.call('ZSCORE', people, person))
    if kept and kept <= now then kept = nil end
    if kept or limit < 0 or used < limit then
      if not kept then used = used + 1 end
      local before = counts_until(person, message, kept)
      redis.call('HSET', undelivered, person, struct.pack('<dd', now, before) .. message)
      redis.call('ZADD', people, 'GT', now + keep, person)
      taken = true
    else
      result = 0
    end
  end
  results[#results + 1] = result
end
if taken then
  redis.call('PEXPIRE', people, keep)
  redis.call('PEXPIRE', undelivered, keep)
end
local left, spent = limit < 0 and -1 or math.max(0, limit - used), -1
if left == 0 then
  redis.call('HSETNX', undelivered, 'spent', now)
  spent = tonumber(redis.call('HGET', undelivered, 'spent'))
elseif limit >= 0 then
  redis.call('HDEL', undelivered, 'spent')
end
local first = redis.call('ZRANGEBYSCORE', people, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
return { used, left, tonumber(first) or -1, spent, unpack(results) }
