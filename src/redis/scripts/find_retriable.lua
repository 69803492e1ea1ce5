-- Looks for a recipient of a part that a retry of its campaign would reopen (see `reopen.lua`). Changes nothing.
--
-- KEYS     meta, state, codes
-- ARGV     1 first row to look at · 2 limit (rows)
--          3 codes of the states to reopen, one byte each: failed, refused, unknown
--          4 and so on: the error codes to reopen; none: any
-- Returns  {1 if there is one, else 0; the row at which to continue, -1 if all rows were checked}. Call again with that
--          row while the first is 0 and the second is not -1.
-- If repeated: checks the same rows again.
local meta, state, codes = unpack(KEYS)
local first, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local next_row = retriable(state, codes, redis.call('HGET', meta, 'erased'), first, 3)
for _ = 1, limit do
  local row, is_retriable = next_row()
  if not row then return { 0, -1 } end
  if is_retriable then return { 1, -1 } end
  first = row + 1
end
return { 0, first }
