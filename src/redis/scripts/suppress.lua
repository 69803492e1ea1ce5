-- Suppresses people: stores that they get no messages, or no marketing, from a business.
--
-- KEYS     suppressed, suppressed_news, wishes
-- ARGV     1 mode: 1 changes a stored person only if the scope widens, 0 changes any field · 2 a new generation of the
--          news (8 bytes)
--          3 maximum length of the news (bytes)
--          4 people, 20 bytes each: 8 bytes hash, then as stored: 7 bytes number (0: none), u32 since (s), u8 flags,
--            of which the highest bit is the scope: set for all messages
--          5 a fingerprint of each person's opt-out (8 bytes), or nothing. An opt-out whose fingerprint is stored is a
--            repeat and changes nothing, because the suppression may have been lifted since
-- Returns  {number of people who were not stored before, number of stored people whose entry changed}.
-- If repeated: changes nothing.
--
-- A field of `suppressed` is the first two bytes of the hash. Its value has 18 bytes for each person: the other six
-- bytes of the hash, and the entry. The field `n` counts the people. `suppressed_news` begins with the generation,
-- followed by the hashes of the people, oldest first, so that a worker reads only those that are new to it.
-- `withhold.lua` appends to it too. When it is too long, it starts over with a new generation, and workers read all
-- people.
local suppressed, news, wishes = unpack(KEYS)
local only_widens, people, prints = ARGV[1] == '1', ARGV[4], ARGV[5]
-- Meta repeats a webhook for up to seven days, so fingerprints are kept for eight.
local RECORD, ALL_MESSAGES, WISH_KEPT_S = 18, 128, 8 * 86400

local now = tonumber(redis.call('TIME')[1])
local function is_repeat(pos)
  if #prints == 0 then return false end
  local at = (pos - 1) / 20 * 8 + 1
  return redis.call('ZADD', wishes, 'NX', now, string.sub(prints, at, at + 7)) == 0
end

local function find(records, rest)
  local at = string.find(records, rest, 1, true)
  while at and (at - 1) % RECORD ~= 0 do at = string.find(records, rest, at + 1, true) end
  return at
end

local hashes, changed = {}, 0
for pos = 1, #people, 20 do
  local field, rest = string.sub(people, pos, pos + 1), string.sub(people, pos + 2, pos + 7)
  local phone, since, flags = string.sub(people, pos + 8, pos + 14), string.sub(people, pos + 15, pos + 18), string.sub(people, pos + 19, pos + 19)
  local records = redis.call('HGET', suppressed, field) or ''
  local at = find(records, rest)
  if is_repeat(pos) then
    -- A repeat changes nothing.
  elseif not at then
    redis.call('HSET', suppressed, field, records .. rest .. phone .. since .. flags)
    hashes[#hashes + 1] = string.sub(people, pos, pos + 7)
  else
    local phone_before, flags_before = string.sub(records, at + 6, at + 12), string.sub(records, at + 17, at + 17)
    local widens = string.byte(flags) >= ALL_MESSAGES and string.byte(flags_before) < ALL_MESSAGES
    local differs = phone ~= phone_before or flags ~= flags_before
    if widens or differs and not only_widens then
      local since_before = string.sub(records, at + 13, at + 16)
      local entry = rest .. phone .. since_before .. flags
      redis.call('HSET', suppressed, field, string.sub(records, 1, at - 1) .. entry .. string.sub(records, at + RECORD))
      changed = changed + 1
    end
  end
end

if #prints > 0 then
  redis.call('ZREMRANGEBYSCORE', wishes, '-inf', now - WISH_KEPT_S)
  redis.call('EXPIRE', wishes, WISH_KEPT_S)
end
if #hashes > 0 then
  redis.call('HINCRBY', suppressed, 'n', #hashes)
  local length = redis.call('STRLEN', news)
  if length == 0 or length > tonumber(ARGV[3]) then redis.call('SET', news, ARGV[2]) end
  redis.call('APPEND', news, table.concat(hashes))
end
return { #hashes, changed }
