-- Begins the deliveries of a worker to a subscriber. From then on, those of every earlier worker store nothing.
--
-- KEYS     subscriber
-- ARGV     name of the worker's deliveries, which is new each time, position for a subscriber that is new
-- Returns  the fields of the subscriber.
-- If repeated: begins again. The answer to the last call is the valid one.
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'deliverer', ARGV[1])
redis.call('HSETNX', KEYS[1], 'position', ARGV[2])
return redis.call('HGETALL', KEYS[1])
