-- Makes room for message ids in the segment of a line's index that takes ids, or opens another.
--
-- KEYS  segments: HASH, when a segment was opened (ms) → layout:ids:parts
-- ARGV  now (ms), how long a segment takes ids (ms), how long ids are kept (ms), layout, ids and parts that a segment takes,
--       ids and parts to come
-- Gives {when the segment was opened, index in it of the first of the parts}.
-- Again: the room is left empty, which costs nothing.
local now, window, kept = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local layout, ids_max, parts_max = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local ids, parts = tonumber(ARGV[7]), tonumber(ARGV[8])
local opened, had_ids, had_parts = -1, 0, 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local at = tonumber(all[i])
  if at + window + kept < now then redis.call('HDEL', KEYS[1], all[i]) end
  local its_layout, its_ids, its_parts = string.match(all[i + 1], '^(%d+):(%d+):(%d+)$')
  if at > opened and its_layout == layout then opened, had_ids, had_parts = at, tonumber(its_ids), tonumber(its_parts) end
end
if opened < 0 or opened + window < now or had_ids + ids > ids_max or had_parts + parts > parts_max then
  opened, had_ids, had_parts = math.max(now, opened + 1), 0, 0
end
redis.call('HSET', KEYS[1], opened, layout .. ':' .. had_ids + ids .. ':' .. had_parts + parts)
redis.call('PEXPIREAT', KEYS[1], opened + window + kept)
return { opened, had_parts }
