-- Stores people from whom Meta withheld marketing: until a time they get no marketing from the business.
--
-- KEYS     withheld_people, suppressed_news
-- ARGV     1 now (ms) · 2 a new generation of the news (8 bytes) · 3 maximum length of the news (bytes)
--          4 people, 16 bytes each: 8 bytes hash, f64 time at which they may get marketing again (ms)
-- Returns  the number of people who were not stored before.
-- If repeated: changes nothing. A stored time never becomes earlier.
--
-- `suppressed_news` is the list of `suppress.lua`, because the filters of the workers have both kinds of people.
local withheld, news = KEYS[1], KEYS[2]
local now, people, hashes, KEPT_MS = tonumber(ARGV[1]), ARGV[4], {}, 60000

-- Expired people are removed first, so that they count as new, and the filters get their hashes again.
redis.call('ZREMRANGEBYSCORE', withheld, '-inf', now)
for pos = 1, #people, 16 do
  local hash, ends = string.sub(people, pos, pos + 7), struct.unpack('<d', people, pos + 8)
  if ends > now and redis.call('ZADD', withheld, 'GT', ends, hash) == 1 then hashes[#hashes + 1] = hash end
end
local last = redis.call('ZREVRANGE', withheld, 0, 0, 'WITHSCORES')[2]
if last then redis.call('PEXPIREAT', withheld, tonumber(last) + KEPT_MS) end

if #hashes > 0 then
  local length = redis.call('STRLEN', news)
  if length == 0 or length > tonumber(ARGV[3]) then redis.call('SET', news, ARGV[2]) end
  redis.call('APPEND', news, table.concat(hashes))
end
return #hashes
