-- Grows the phone index by three buckets (linear hashing): one bucket is split into four, of which the first keeps
-- its key. All four are written anew: Redis then stores the first one as a listpack again, even if it had exceeded the
-- size limit of listpacks.
--
-- KEYS     campaign, bucket to split, three new buckets
-- ARGV     buckets before the split, divisor of a hash: floor(hash / divisor) % 4 selects one of the four buckets
-- Returns  the number of buckets after the split; nil if there is no such campaign.
-- If repeated: changes nothing, because the number of buckets has changed.
local call, read, floor = redis.call, struct.unpack, math.floor
local campaign, from = KEYS[1], KEYS[2]
local buckets, divisor = call('HGET', campaign, 'buckets'), tonumber(ARGV[2])
if buckets ~= ARGV[1] then return tonumber(buckets) end
local entries, lists = call('HGETALL', from), { {}, {}, {}, {} }
for i = 1, #entries, 2 do
  local list = lists[floor(read('<I4', entries[i]) / divisor) % 4 + 1]
  local n = #list
  list[n + 1], list[n + 2] = entries[i], entries[i + 1]
end
if #entries > 0 then call('DEL', from) end
for i, list in ipairs(lists) do
  if #list > 0 then call('HSET', KEYS[i + 1], unpack(list)) end
end
return call('HINCRBY', campaign, 'buckets', 3)
