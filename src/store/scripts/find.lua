-- Finds rows by message id, where Meta did not echo the token. Examines one piece of the list: at most 64 KiB or 1,000 entries.
--
-- KEYS  ids
-- ARGV  index of the newest entry to examine (-1: the newest of all), fingerprints of 8 bytes
-- Returns {index to go on from, or -1 at the end; bytes examined; then per fingerprint {row, send}, or {} if this piece lacks it}.
-- Reads only. Goes from the newest entries to the oldest: what Meta tells without our token is mostly about what was just sent.
local BYTES, ENTRIES, ENTRY = 64 * 1024, 1000, 256 * 11
local found, left, bytes, entries, largest = {}, #ARGV - 1, 0, 0, ENTRY
for i = 1, left do found[i] = {} end
local upto = tonumber(ARGV[1])
if upto < 0 then upto = redis.call('LLEN', KEYS[1]) - 1 end
while upto >= 0 and left > 0 do
  -- Most entries are a settlement of at most ENTRY bytes; those of statuses may be larger.
  local room = math.min(math.floor((BYTES - bytes) / largest), ENTRIES - entries)
  if room < 1 then break end
  local from = math.max(upto - room + 1, 0)
  local blobs = redis.call('LRANGE', KEYS[1], from, upto)
  entries = entries + #blobs
  for _, blob in ipairs(blobs) do largest = math.max(largest, #blob) end
  -- Searched as one text: a search in each of many small entries costs several times as much.
  local text = table.concat(blobs)
  bytes = bytes + #text
  for i = 1, #found do
    local print = ARGV[i + 1]
    local pos = #found[i] == 0 and string.find(text, print, 1, true)
    while pos and pos % 11 ~= 4 do pos = string.find(text, print, pos + 1, true) end
    if pos then
      local row, send = struct.unpack('<I2B', text, pos - 3)
      found[i] = { row, send }
      left = left - 1
    end
  end
  upto = from - 1
end
return { left > 0 and upto or -1, bytes, unpack(found) }
