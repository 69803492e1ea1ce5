-- Begins the deliveries of a worker to a subscriber. From then on, deliveries of earlier workers store nothing.
--
-- KEYS     subscriber
-- ARGV     a new name for the worker's deliveries, position for a new subscriber
-- Returns  the fields of the subscriber.
-- If repeated with another name: begins again, and only the last name is valid.
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'deliverer', ARGV[1])
redis.call('HSETNX', KEYS[1], 'position', ARGV[2])
return redis.call('HGETALL', KEYS[1])
