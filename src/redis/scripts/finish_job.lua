-- Takes an entry off the stream of jobs: its effect is there, or it lies with the dead letters.
--
-- KEYS  jobs
-- ARGV  group, id of the entry
-- Gives 1 taken off, 0 it was gone. Again: changes nothing.
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return redis.call('XDEL', KEYS[1], ARGV[2])
