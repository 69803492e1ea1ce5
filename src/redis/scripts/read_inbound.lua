-- Reads the messages of a line that a reader has not read yet. Its consumer group stands at the last message that it
-- has read, so unread messages are never removed.
--
-- KEYS     stream
-- ARGV     consumer group, maximum number of messages
-- Returns  the entries.
-- If repeated: changes nothing.
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local read_to
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local fields = {}
  for i = 1, #group, 2 do fields[group[i]] = group[i + 1] end
  if fields.name == ARGV[1] then read_to = fields['last-delivered-id'] end
end
if not read_to then
  redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], 0)
  read_to = '0-0'
end
return redis.call('XRANGE', KEYS[1], '(' .. read_to, '+', 'COUNT', ARGV[2])
