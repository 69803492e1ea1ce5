-- Gives room for chunks of recipients: each in the open part of its line, or in a new part where that is full.
--
-- KEYS  campaign
-- ARGV  line id, rows (at most 65536) for each chunk
-- Gives part, first row for each chunk; an empty list where the campaign would get more than 65536 parts; false without such a
--       campaign.
-- Again: takes fresh room; what was given before stays empty, and counts nowhere.
local campaign, given = KEYS[1], {}
if redis.call('HEXISTS', campaign, 'parts') == 0 then return false end
for i = 1, #ARGV, 2 do
  local line, rows = ARGV[i], tonumber(ARGV[i + 1])
  local at = redis.call('HMGET', campaign, 'open:' .. line, 'used:' .. line, 'parts')
  local part, used = tonumber(at[1]), tonumber(at[2])
  if not part or used + rows > 65536 then
    part, used = tonumber(at[3]), 0
    if part >= 65536 then return {} end
    redis.call('HSET', campaign, 'parts', part + 1, 'open:' .. line, part, 'line:' .. part, line)
  end
  redis.call('HSET', campaign, 'used:' .. line, used + rows)
  redis.call('HINCRBY', campaign, 'given:' .. line, rows)
  given[#given + 1], given[#given + 2] = part, used
end
return given
