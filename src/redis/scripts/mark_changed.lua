-- Notes that something changed of which the feed has to tell. What is noted already keeps its earlier time.
--
-- KEYS     changed
-- ARGV     what changed
-- Returns  the number of those that were not noted yet.
-- If repeated: notes what the relay has taken meanwhile once more, and the relay then finds nothing new to tell.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local members = {}
for _, changed in ipairs(ARGV) do
  members[#members + 1] = now
  members[#members + 1] = changed
end
return redis.call('ZADD', KEYS[1], 'NX', unpack(members))
