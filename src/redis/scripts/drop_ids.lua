-- Drops the oldest entries of a part's list of message ids, which are in the index of its line.
--
-- KEYS  ids
-- ARGV  number of entries, the newest of them
-- Gives 1 if it dropped them.
-- Again, or by two workers: the newest of them is at its place only once.
if redis.call('LINDEX', KEYS[1], ARGV[1] - 1) ~= ARGV[2] then return 0 end
redis.call('LTRIM', KEYS[1], ARGV[1], -1)
return 1
