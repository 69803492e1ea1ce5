-- Sets the gate of a part according to the state of its campaign. Rows can be claimed only while the gate is `open`.
--
-- KEYS     meta, state
-- ARGV     version of the campaign's state, gate (open, held, completed, cancelled), expires_at (ms, or empty)
-- Returns  the number of open recipients of the part. A status may have reopened a row after the campaign was found
--          done and before its gates closed; the caller then ends that row.
-- If repeated: changes nothing. A version older than the part's changes nothing either.
local meta, state = KEYS[1], KEYS[2]
local open = 0
for _, n in ipairs(redis.call('HMGET', meta, unpack(OPEN))) do open = open + (tonumber(n) or 0) end
if tonumber(ARGV[1]) <= tonumber(redis.call('HGET', meta, 'version') or -1) then return open end
redis.call('HSET', meta, 'version', ARGV[1], 'gate', ARGV[2])
if ARGV[3] == '' then redis.call('HDEL', meta, 'expires') else redis.call('HSET', meta, 'expires', ARGV[3]) end
-- Redis allocates up to twice the size of a string that grows. The state bytes stop growing once rows can be claimed,
-- so writing them anew frees the excess.
if ARGV[2] == 'open' and redis.call('HEXISTS', meta, 'next') == 0 then
  local bytes = redis.call('GET', state)
  if bytes then redis.call('SET', state, bytes) end
end
return open
