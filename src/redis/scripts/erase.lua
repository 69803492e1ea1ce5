-- Removes the numbers, values and message ids of recipients of a chunk, and ends recipients that can still be claimed.
--
-- KEYS     meta, state, history, sends, retry, codes, skips, chunks, wamids, before
-- ARGV     1 now (ms) · 2 first row of the chunk · 3 the chunk as the caller read it · 4 the chunk without the
--          recipients
--          5 the byte of the reason for which they are skipped · 6 the recipients: u16 row each
--          7 and so on, for each block with message ids of the recipients: its number, the block as the caller read it,
--          the block without these ids (empty: no id is left)
-- Returns  {number of these rows that are recipients, number that this call skipped}; nil if the chunk or a block has
--          changed since the caller read it.
-- If repeated: returns nil, because the chunk has changed.
--
-- A row that can be claimed is skipped, but a row that is sent again returns to its earlier state (see `go_back`).
-- Any other row keeps its state. The rows are appended to `erased` in `meta` as u16, so that no id of a message in
-- flight is stored later, no process uses a chunk that it read before, and no retry reopens the rows.
local meta, state, history, sends, retry, codes, skips, chunks, wamids, before = unpack(KEYS)
local second, reason, rows = math.floor(tonumber(ARGV[1]) / 1000), tonumber(ARGV[5]), ARGV[6]
if redis.call('HGET', chunks, ARGV[2]) ~= ARGV[3] then return false end
for i = 7, #ARGV, 3 do
  if redis.call('HGET', wamids, ARGV[i]) ~= ARGV[i + 1] then return false end
end

redis.call('HSET', chunks, ARGV[2], ARGV[4])
for i = 7, #ARGV, 3 do
  if ARGV[i + 2] == '' then redis.call('HDEL', wamids, ARGV[i]) else redis.call('HSET', wamids, ARGV[i], ARGV[i + 2]) end
end

local m, recipients, skipped = moves(meta, state, history, sends, nil, skips), 0, 0
local function finish(row, byte)
  local due = tonumber(redis.call('ZSCORE', retry, row) or 0)
  redis.call('ZREM', retry, row)
  if not go_back(m, codes, before, row, byte, due, second) then
    redis.call('HDEL', codes, row)
    m.skip(row, byte, m.send(row, byte), second, reason)
    skipped = skipped + 1
  end
end

for pos = 1, #rows, 2 do
  local row = struct.unpack('<I2', rows, pos)
  local byte = m.byte(row)
  if byte ~= 0 then recipients = recipients + 1 end
  if claimable(byte % 16) then finish(row, byte) end
end
m.set('erased', (redis.call('HGET', meta, 'erased') or '') .. rows)
m.commit()
return { recipients, skipped }
