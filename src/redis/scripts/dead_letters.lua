-- Lists dead letters, newest first, until a number of letters or of bytes is reached.
--
-- KEYS     dead letters
-- ARGV     list letters older than this id (empty: from the newest on), maximum number of letters, maximum bytes
-- Returns  the dead letters, and 1 if older ones are left, else 0. Only the last letter may exceed the bytes.
-- If repeated: changes nothing.
--
-- Letters are read one by one, because each can be megabytes long.
local number_max, bytes_max = tonumber(ARGV[2]), tonumber(ARGV[3])
local before = ARGV[1] == '' and '+' or '(' .. ARGV[1]
local letters, bytes = {}, 0
while true do
  local letter = redis.call('XREVRANGE', KEYS[1], before, '-', 'COUNT', 1)[1]
  if not letter then return {letters, 0} end
  if #letters >= number_max or bytes >= bytes_max then return {letters, 1} end
  letters[#letters + 1] = letter
  for _, text in ipairs(letter[2]) do bytes = bytes + #text end
  before = '(' .. letter[1]
end
