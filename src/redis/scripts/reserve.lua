-- Reserves rows for chunks of recipients: in the newest part of each chunk's line and group, or in a new part if the
-- chunk does not fit. In a campaign with very many parts, rows go to the newest part of the group, on any line.
--
-- KEYS     campaign
-- ARGV     number of parts of the campaign from which on a group gets no parts on further lines, then for each chunk:
--          line id, rows (at most 65536), group (empty: the recipients have none)
-- Returns  for each chunk: part, first row. An empty list if the campaign would exceed 65536 parts; nil if there is no
--          such campaign.
-- If repeated: reserves other rows. The rows reserved before stay empty and never become recipients.
local campaign, spread_max, reserved = KEYS[1], tonumber(ARGV[1]), {}
if redis.call('HEXISTS', campaign, 'parts') == 0 then return false end
for i = 2, #ARGV, 3 do
  local line, rows, group = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local place, part, used, parts
  local function open(on)
    line, place = on, group == '' and on or on .. ' ' .. group
    local record = redis.call('HMGET', campaign, 'open:' .. place, 'used:' .. place, 'parts')
    part, used, parts = tonumber(record[1]), tonumber(record[2]), tonumber(record[3])
  end
  open(line)
  if not part and group ~= '' and parts >= spread_max then
    open(redis.call('HGET', campaign, 'last:' .. group) or line)
  end
  if not part or used + rows > 65536 then
    part, used = parts, 0
    if part >= 65536 then return {} end
    redis.call('HSET', campaign, 'parts', part + 1, 'open:' .. place, part, 'line:' .. part, line)
    if group ~= '' then redis.call('HSET', campaign, 'zones:' .. part, group, 'last:' .. group, line, 'grouped', 1) end
  end
  redis.call('HSET', campaign, 'used:' .. place, used + rows)
  redis.call('HINCRBY', campaign, 'given:' .. line, rows)
  reserved[#reserved + 1], reserved[#reserved + 2] = part, used
end
return reserved
