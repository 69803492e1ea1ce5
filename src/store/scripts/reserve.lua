-- Gives room for chunks of recipients: each in the open part of its line, or in a new part where that is full.
--
-- KEYS  campaign
-- ARGV  line id, rows (at most 65536) for each chunk
-- Gives part, first row for each chunk. Again: takes fresh room; what was given before stays empty, and counts nowhere.
local campaign, given = KEYS[1], {}
for i = 1, #ARGV, 2 do
  local line, rows = ARGV[i], tonumber(ARGV[i + 1])
  local open = redis.call('HMGET', campaign, 'open:' .. line, 'used:' .. line)
  local part, used = tonumber(open[1]), tonumber(open[2])
  if not part or used + rows > 65536 then
    part, used = redis.call('HINCRBY', campaign, 'parts', 1) - 1, 0
    redis.call('HSET', campaign, 'open:' .. line, part, 'line:' .. part, line)
  end
  redis.call('HSET', campaign, 'used:' .. line, used + rows)
  given[#given + 1], given[#given + 2] = part, used
end
return given
