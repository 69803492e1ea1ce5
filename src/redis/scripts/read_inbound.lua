-- Reads the messages of a line that the feed has not published yet. The consumer group stands at the last published
-- message, so unpublished messages are never removed.
--
-- KEYS     stream
-- ARGV     consumer group, maximum number of messages
-- Returns  the entries.
-- If repeated: changes nothing.
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local told
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local fields = {}
  for i = 1, #group, 2 do fields[group[i]] = group[i + 1] end
  if fields.name == ARGV[1] then told = fields['last-delivered-id'] end
end
if not told then
  redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], 0)
  told = '0-0'
end
return redis.call('XRANGE', KEYS[1], '(' .. told, '+', 'COUNT', ARGV[2])
