-- Drops the oldest entries of a part's list of message ids, once the index of its line has them.
--
-- KEYS     ids
-- ARGV     number of entries to drop, content of the newest of them
-- Returns  1 if the entries were dropped, else 0.
-- If repeated, by this worker or another: changes nothing, because the entry with that content is gone.
if redis.call('LINDEX', KEYS[1], ARGV[1] - 1) ~= ARGV[2] then return 0 end
redis.call('LTRIM', KEYS[1], ARGV[1], -1)
return 1
