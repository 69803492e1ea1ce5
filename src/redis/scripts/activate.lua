-- Turns admitted rows into recipients, which are counted and can be claimed once the campaign runs.
--
-- KEYS     meta, state
-- ARGV     first row, mask: one byte a row, 1 = admitted, 0 = rejected as a duplicate
-- Returns  the number of rows that this call made pending.
-- If repeated: a row that already has a state keeps it.
local meta, state = KEYS[1], KEYS[2]
local start, mask = tonumber(ARGV[1]), ARGV[2]
local n = #mask
local before = redis.call('GETRANGE', state, start, start + n - 1)
local bytes, added = {}, 0
for i = 1, n do
  local byte = string.byte(before, i) or 0
  if byte == 0 and string.byte(mask, i) == 1 then
    byte = STATE.pending
    added = added + 1
  end
  bytes[i] = byte
end
if added > 0 then
  redis.call('SETRANGE', state, start, string.char(unpack(bytes)))
  redis.call('HINCRBY', meta, NAME[STATE.pending], added)
  redis.call('HINCRBY', meta, 'recipients', added)
end
if start + n > tonumber(redis.call('HGET', meta, 'rows') or 0) then redis.call('HSET', meta, 'rows', start + n) end
return added
