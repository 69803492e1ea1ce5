-- Gives a lease back.
--
-- KEYS  lease
-- ARGV  worker, epoch held
-- Gives 1 given back, 0 it was not held any more. Again: changes nothing.
if redis.call('GET', KEYS[1]) ~= ARGV[1] .. ' ' .. ARGV[2] then return 0 end
return redis.call('DEL', KEYS[1])
