-- Finds the entry to process next: the oldest on the stream of jobs, because a finished entry is removed. An entry that
-- was not delivered yet becomes pending.
--
-- The oldest entry is next even if it was delivered already: a reader that has lost the duty may still take delivery of
-- an entry, and no later entry may take effect before that one.
--
-- KEYS     jobs
-- ARGV     consumer group, consumer
-- Returns  the entry and 1 if it was pending already, else 0; nil if the stream is empty.
-- Errors: NOGROUP if the consumer group does not exist.
-- If repeated: returns the same entry, until it is finished.
local function first_pending() return redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1)[1] end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local pending = first_pending()
while pending and not (oldest and pending[1] == oldest[1]) do
  -- The entry was deleted from the stream by hand.
  redis.call('XACK', KEYS[1], ARGV[1], pending[1])
  pending = first_pending()
end
if not oldest then
  return false
end
if not pending then
  redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[1], '>')
end
return {oldest, pending and 1 or 0}
