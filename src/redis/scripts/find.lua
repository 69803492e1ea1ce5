-- Reads one page of a part's list of message ids, from newer entries to older ones: at most 64 KiB and 1,000 entries.
--
-- KEYS     ids
-- ARGV     index of the newest entry to read (-1: the newest of the list)
-- Returns  {index to continue from, or -1 at the end; the entries, concatenated}.
-- Reads only. Entries may be added or dropped between two calls: added ones get higher indexes, and when the oldest
-- are dropped, an index refers to a newer entry than before. So the caller may read an entry twice, but misses none
-- that remains.
local BYTES, ENTRIES, ENTRY = 64 * 1024, 1000, 256 * 11
local texts, bytes, entries = {}, 0, 0
local upto = tonumber(ARGV[1])
if upto < 0 then upto = redis.call('LLEN', KEYS[1]) - 1 end
while upto >= 0 do
  local capacity = math.min(math.floor((BYTES - bytes) / ENTRY), ENTRIES - entries)
  if capacity < 1 then break end
  local from = math.max(upto - capacity + 1, 0)
  local blobs = redis.call('LRANGE', KEYS[1], from, upto)
  local text = table.concat(blobs)
  texts[#texts + 1] = text
  bytes, entries, upto = bytes + #text, entries + #blobs, from - 1
end
return { upto, table.concat(texts) }
