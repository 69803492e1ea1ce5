-- Appends events to a stream of the feed. Removes the oldest events beyond the maximum length, and events older than
-- the retention.
--
-- The second half of an id numbers the events of the stream. A reader that finds a gap in the numbers knows that events
-- were removed before it read them.
--
-- KEYS     events
-- ARGV     maximum length, retention (ms), then the events, JSON
-- Returns  the number of events appended.
-- If repeated: appends the events again. Readers recognize repeats by the id in the event.
local events, length_max, retention = KEYS[1], ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local ms, number = 0, 0
if redis.call('EXISTS', events) == 1 then
  local info = redis.call('XINFO', 'STREAM', events)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      ms, number = string.match(info[i + 1], '(%d+)-(%d+)')
      ms, number = tonumber(ms), tonumber(number)
    end
  end
end
-- Ids must rise, even if the clock was set back.
ms = math.max(ms, now)
for i = 3, #ARGV do
  number = number + 1
  redis.call('XADD', events, string.format('%.0f-%.0f', ms, number), 'event', ARGV[i])
end
redis.call('XTRIM', events, 'MAXLEN', '~', length_max)
redis.call('XTRIM', events, 'MINID', '~', string.format('%.0f', math.max(now - retention, 0)))
return #ARGV - 2
