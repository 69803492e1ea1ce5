-- Opens or shuts a part for claims, as its campaign's state says. Takes effect with the next claim.
--
-- KEYS  meta, state
-- ARGV  version of the campaign's state, gate (open, held, completed, cancelled), expires_at (ms, or empty)
-- Gives open recipients of the part. A row can be reopened between the look that found a campaign done and the closing of its gates:
--       whoever closes them ends what is open then.
-- Again: a part that follows that version or a newer one already is left as it is.
local meta, state = KEYS[1], KEYS[2]
local open = 0
for _, n in ipairs(redis.call('HMGET', meta, unpack(OPEN))) do open = open + (tonumber(n) or 0) end
if tonumber(ARGV[1]) <= tonumber(redis.call('HGET', meta, 'version') or -1) then return open end
redis.call('HSET', meta, 'version', ARGV[1], 'gate', ARGV[2])
if ARGV[3] ~= '' then redis.call('HSET', meta, 'expires', ARGV[3]) end
-- While the state bytes grew, Redis kept up to twice the room that they take. Now that they can be claimed, they grow no more.
if ARGV[2] == 'open' and redis.call('HEXISTS', meta, 'next') == 0 then
  local bytes = redis.call('GET', state)
  if bytes then redis.call('SET', state, bytes) end
end
return open
