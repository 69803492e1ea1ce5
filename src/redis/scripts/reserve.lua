-- Reserves rows for chunks of recipients: in the newest part of each chunk's line, or in a new part if the chunk does
-- not fit.
--
-- KEYS     campaign
-- ARGV     for each chunk: line id, rows (at most 65536)
-- Returns  for each chunk: part, first row. An empty list if the campaign would exceed 65536 parts; nil if there is no
--          such campaign.
-- If repeated: reserves other rows. The rows reserved before stay empty and never become recipients.
local campaign, reserved = KEYS[1], {}
if redis.call('HEXISTS', campaign, 'parts') == 0 then return false end
for i = 1, #ARGV, 2 do
  local line, rows = ARGV[i], tonumber(ARGV[i + 1])
  local record = redis.call('HMGET', campaign, 'open:' .. line, 'used:' .. line, 'parts')
  local part, used = tonumber(record[1]), tonumber(record[2])
  if not part or used + rows > 65536 then
    part, used = tonumber(record[3]), 0
    if part >= 65536 then return {} end
    redis.call('HSET', campaign, 'parts', part + 1, 'open:' .. line, part, 'line:' .. part, line)
  end
  redis.call('HSET', campaign, 'used:' .. line, used + rows)
  redis.call('HINCRBY', campaign, 'given:' .. line, rows)
  reserved[#reserved + 1], reserved[#reserved + 2] = part, used
end
return reserved
