-- Grows the index of numbers by three buckets (linear hashing): a bucket is split into four, of which the first keeps its place.
-- All are written anew, so that the first is packed again even if it had outgrown that.
--
-- KEYS  campaign, bucket that is split, three new buckets
-- ARGV  buckets before, what a hash is divided by: the rest of that by four says who goes where
-- Gives buckets now; nothing without such a campaign. Again: where `buckets` has moved on, changes nothing.
local call, read, floor = redis.call, struct.unpack, math.floor
local campaign, from = KEYS[1], KEYS[2]
local buckets, by = call('HGET', campaign, 'buckets'), tonumber(ARGV[2])
if buckets ~= ARGV[1] then return tonumber(buckets) end
local entries, lists = call('HGETALL', from), { {}, {}, {}, {} }
for i = 1, #entries, 2 do
  local list = lists[floor(read('<I4', entries[i]) / by) % 4 + 1]
  local n = #list
  list[n + 1], list[n + 2] = entries[i], entries[i + 1]
end
if #entries > 0 then call('DEL', from) end
for i, list in ipairs(lists) do
  if #list > 0 then call('HSET', KEYS[i + 1], unpack(list)) end
end
return call('HINCRBY', campaign, 'buckets', 3)
