-- Opens or shuts a part for claims, as its campaign's state says. Takes effect with the next claim.
--
-- KEYS  meta
-- ARGV  version of the campaign's state, gate (open, held, completed, cancelled), expires_at (ms, or empty)
-- Gives open recipients of the part.
-- Again: an older version than the one applied changes nothing.
local meta = KEYS[1]
if tonumber(ARGV[1]) > tonumber(redis.call('HGET', meta, 'version') or -1) then
  redis.call('HSET', meta, 'version', ARGV[1], 'gate', ARGV[2])
  if ARGV[3] ~= '' then redis.call('HSET', meta, 'expires', ARGV[3]) end
end
local open = 0
for _, n in ipairs(redis.call('HMGET', meta, unpack(OPEN))) do open = open + (tonumber(n) or 0) end
return open
