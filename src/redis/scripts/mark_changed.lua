-- Notes subjects with changes that the feed has to publish. A subject that is noted already keeps its earlier time.
--
-- KEYS     changed
-- ARGV     subjects that changed
-- Returns  the number of subjects that were not noted yet.
-- If repeated: notes again what the relay has taken meanwhile. The relay then finds nothing new to publish.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local members = {}
for _, changed in ipairs(ARGV) do
  members[#members + 1] = now
  members[#members + 1] = changed
end
return redis.call('ZADD', KEYS[1], 'NX', unpack(members))
