-- Uncounts marketing messages that were counted towards frequency caps and did not reach their recipient.
--
-- KEYS     marketing
-- ARGV     1 messages, 9 bytes each, as in count_marketing.lua
-- Returns  the number of messages that are no longer counted.
-- If repeated: changes nothing.
local marketing, messages = KEYS[1], ARGV[1]
local RECORD, removed = 9, 0
for pos = 1, #messages, 9 do
  local field, message = string.sub(messages, pos, pos + 1), string.sub(messages, pos + 2, pos + 8)
  local records = redis.call('HGET', marketing, field) or ''
  local at = string.find(records, message, 1, true)
  while at and (at - 1) % RECORD ~= 0 do at = string.find(records, message, at + 1, true) end
  if at then
    local others = string.sub(records, 1, at - 1) .. string.sub(records, at + RECORD)
    if others == '' then redis.call('HDEL', marketing, field) else redis.call('HSET', marketing, field, others) end
    removed = removed + 1
  end
end
return removed
