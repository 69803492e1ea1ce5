-- Grows the index of numbers by one bucket (linear hashing): half of what is in the first bucket moves to the second.
-- Both are written anew, so that they are packed again even if the first had outgrown that.
--
-- KEYS  campaign, bucket that is split, new bucket
-- ARGV  buckets before, bit of the hash that decides (a power of two)
-- Gives buckets now. Again: where `buckets` has moved on, changes nothing.
local campaign, from, to = KEYS[1], KEYS[2], KEYS[3]
local buckets, bit = redis.call('HGET', campaign, 'buckets'), tonumber(ARGV[2])
if buckets ~= ARGV[1] then return tonumber(buckets) end
local entries = redis.call('HGETALL', from)
local stay, go = {}, {}
for i = 1, #entries, 2 do
  local list = math.floor(struct.unpack('<I4', entries[i]) / bit) % 2 == 1 and go or stay
  list[#list + 1], list[#list + 2] = entries[i], entries[i + 1]
end
redis.call('DEL', from)
if #stay > 0 then redis.call('HSET', from, unpack(stay)) end
if #go > 0 then redis.call('HSET', to, unpack(go)) end
return redis.call('HINCRBY', campaign, 'buckets', 1)
