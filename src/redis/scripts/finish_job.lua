-- Removes an entry from the stream of jobs, after its effect or its dead letter is stored.
--
-- KEYS     jobs
-- ARGV     consumer group, id of the entry
-- Returns  1 if removed, 0 if the entry was gone.
-- If repeated: changes nothing.
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return redis.call('XDEL', KEYS[1], ARGV[2])
