-- Reserves capacity for message ids in the newest segment of a line's index, or in a new segment if that one is full
-- or too old.
--
-- KEYS     segments: HASH, time at which a segment was opened (Unix ms) → layout:ids:parts
-- ARGV     1 now (ms) · 2 how long a segment takes ids (ms) · 3 lifetime of an id (ms) · 4 layout
--          5 maximum number of ids in a segment · 6 maximum number of parts in a segment
--          7 ids to add · 8 parts to add
-- Returns  {time at which the segment was opened, index in the segment of the first added part}.
-- If repeated: reserves again. The first reservation stays unused, which costs nothing.
local now, window, lifetime = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local layout, ids_max, parts_max = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local ids, parts = tonumber(ARGV[7]), tonumber(ARGV[8])
local opened, n_ids, n_parts = -1, 0, 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local at = tonumber(all[i])
  if at + window + lifetime < now then redis.call('HDEL', KEYS[1], all[i]) end
  local used_layout, used_ids, used_parts = string.match(all[i + 1], '^(%d+):(%d+):(%d+)$')
  if at > opened and used_layout == layout then opened, n_ids, n_parts = at, tonumber(used_ids), tonumber(used_parts) end
end
if opened < 0 or opened + window < now or n_ids + ids > ids_max or n_parts + parts > parts_max then
  opened, n_ids, n_parts = math.max(now, opened + 1), 0, 0
end
redis.call('HSET', KEYS[1], opened, layout .. ':' .. n_ids + ids .. ':' .. n_parts + parts)
redis.call('PEXPIREAT', KEYS[1], opened + window + lifetime)
return { opened, n_parts }
