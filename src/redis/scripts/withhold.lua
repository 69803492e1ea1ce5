-- Notes people from whom Meta withheld marketing: they get none from the business until a time.
--
-- KEYS     withheld_people, suppressed_news
-- ARGV     1 now (ms) · 2 a new generation of the news (8 bytes) · 3 how long the news may become (bytes)
--          4 people, 16 bytes each: 8 bytes hash, f64 time from which on they may get marketing again (ms)
-- Returns  the number of people who were not known.
-- If repeated: changes nothing. Nobody's time becomes earlier.
--
-- `suppressed_news` is that of suppress.lua, because the filters of the workers have both kinds of people.
local withheld, news = KEYS[1], KEYS[2]
local now, people, hashes, KEPT_MS = tonumber(ARGV[1]), ARGV[4], {}, 60000

-- First, so that a person whose time is over counts as new, and the filters get the hash again.
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
