-- Finds the id of the newest event that was ever in a stream of the feed.
--
-- KEYS     events
-- Returns  the id; nil if there was never an event.
-- If repeated: changes nothing.
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then return info[i + 1] end
end
