-- Records what became of messages that count towards the messaging limit of a business.
--
-- KEYS     people, undelivered, windows
-- ARGV     1 now (ms) · 2 how long a person counts after a delivery (ms) · 3 line · 4 news, 38 bytes each: 8 bytes
--          person, 21 bytes message as in take_places.lua, kind, time (ms) as a double
-- Kinds    D delivered at the time, or up to a second later: Meta's times are cut to whole seconds
--          R read at the time, so it was delivered by then
--          F it will not be delivered
-- If repeated: changes nothing.
--
-- Once a message is delivered, so are the earlier ones to the same person. A message that was read is known to be
-- delivered already, unless it is still in `undelivered`. A delivered message that is not in `undelivered` either took
-- no place, because the person had an open service window, or its place has expired. In the second case the person
-- counts from now on.
local people, undelivered, windows = unpack(KEYS)
local now, window, line, news = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local RESOLUTION = 1000

local function count_until(person, time)
  if time > now then redis.call('ZADD', people, time, person) else redis.call('ZREM', people, person) end
end

for pos = 1, #news, 38 do
  local person, message = string.sub(news, pos, pos + 7), string.sub(news, pos + 8, pos + 28)
  local kind, time = struct.unpack('<c1d', string.sub(news, pos + 29, pos + 37))
  local ends = time + RESOLUTION + window
  local last = redis.call('HGET', undelivered, person)
  if last then
    local sent, before = struct.unpack('<dd', last)
    local is_last = string.sub(last, 17) == message
    if kind == 'F' then
      if is_last then
        redis.call('HDEL', undelivered, person)
        count_until(person, before)
      end
    elseif is_last or time + RESOLUTION > sent then
      redis.call('HDEL', undelivered, person)
      count_until(person, ends)
    else
      redis.call('HSET', undelivered, person, struct.pack('<dd', sent, math.max(before, ends)) .. string.sub(last, 17))
    end
  elseif kind == 'D' and ends > now and time > (tonumber(redis.call('ZSCORE', windows, person .. line)) or 0) then
    redis.call('ZADD', people, 'GT', ends, person)
    if redis.call('PTTL', people) < window then redis.call('PEXPIRE', people, window + RESOLUTION) end
  end
end
