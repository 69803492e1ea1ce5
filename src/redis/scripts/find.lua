-- Reads one piece of a part's list of message ids, from newer entries to older ones: at most 64 KiB and 1,000 entries.
--
-- KEYS  ids
-- ARGV  index of the newest entry to read (-1: the newest of all)
-- Gives {index to go on from, or -1 at the end; the entries, one after the other}.
-- Reads only. Entries added or dropped between two calls hide none of the others: what is dropped is the oldest, so that an index then
-- stands for a newer entry.
local BYTES, ENTRIES, ENTRY = 64 * 1024, 1000, 256 * 11
local texts, bytes, entries = {}, 0, 0
local upto = tonumber(ARGV[1])
if upto < 0 then upto = redis.call('LLEN', KEYS[1]) - 1 end
while upto >= 0 do
  local room = math.min(math.floor((BYTES - bytes) / ENTRY), ENTRIES - entries)
  if room < 1 then break end
  local from = math.max(upto - room + 1, 0)
  local blobs = redis.call('LRANGE', KEYS[1], from, upto)
  local text = table.concat(blobs)
  texts[#texts + 1] = text
  bytes, entries, upto = bytes + #text, entries + #blobs, from - 1
end
return { upto, table.concat(texts) }
