-- Releases a lease.
--
-- KEYS     lease
-- ARGV     worker, epoch that the caller holds
-- Returns  1 if released, 0 if the caller no longer held it.
-- If repeated: changes nothing.
if redis.call('GET', KEYS[1]) ~= ARGV[1] .. ' ' .. ARGV[2] then return 0 end
return redis.call('DEL', KEYS[1])
