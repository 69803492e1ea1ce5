-- Sets the gate of a part, which allows or forbids claims, as its campaign's state requires. The next claim obeys it.
--
-- KEYS     meta, state
-- ARGV     version of the campaign's state, gate (open, held, completed, cancelled), expires_at (ms, or empty)
-- Returns  the open recipients of the part. A row can be reopened after the campaign was found done and before its
--          gates close: the caller that closes the gates ends such rows.
-- If repeated: a part that already follows this version or a newer one is unchanged.
local meta, state = KEYS[1], KEYS[2]
local open = 0
for _, n in ipairs(redis.call('HMGET', meta, unpack(OPEN))) do open = open + (tonumber(n) or 0) end
if tonumber(ARGV[1]) <= tonumber(redis.call('HGET', meta, 'version') or -1) then return open end
redis.call('HSET', meta, 'version', ARGV[1], 'gate', ARGV[2])
if ARGV[3] ~= '' then redis.call('HSET', meta, 'expires', ARGV[3]) end
-- Redis allocates up to twice the size of a string that grows. The state bytes stop growing once rows can be claimed,
-- so writing them anew frees the excess.
if ARGV[2] == 'open' and redis.call('HEXISTS', meta, 'next') == 0 then
  local bytes = redis.call('GET', state)
  if bytes then redis.call('SET', state, bytes) end
end
return open
