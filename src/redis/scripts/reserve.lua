-- Reserves rows for chunks of recipients: in the newest part of each chunk's line and time zones, or in a new part if the
-- chunk does not fit.
--
-- KEYS     campaign
-- ARGV     for each chunk: line id, rows (at most 65536), group of time zones (empty: the campaign does not group by them)
-- Returns  for each chunk: part, first row. An empty list if the campaign would exceed 65536 parts; nil if there is no
--          such campaign.
-- If repeated: reserves other rows. The rows reserved before stay empty and never become recipients.
local campaign, reserved = KEYS[1], {}
if redis.call('HEXISTS', campaign, 'parts') == 0 then return false end
for i = 1, #ARGV, 3 do
  local line, rows, zones = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local place = zones == '' and line or line .. ' ' .. zones
  local record = redis.call('HMGET', campaign, 'open:' .. place, 'used:' .. place, 'parts')
  local part, used = tonumber(record[1]), tonumber(record[2])
  if not part or used + rows > 65536 then
    part, used = tonumber(record[3]), 0
    if part >= 65536 then return {} end
    redis.call('HSET', campaign, 'parts', part + 1, 'open:' .. place, part, 'line:' .. part, line)
    if zones ~= '' then redis.call('HSET', campaign, 'zones:' .. part, zones) end
  end
  redis.call('HSET', campaign, 'used:' .. place, used + rows)
  redis.call('HINCRBY', campaign, 'given:' .. line, rows)
  reserved[#reserved + 1], reserved[#reserved + 2] = part, used
end
return reserved
