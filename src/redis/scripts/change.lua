-- Changes the state of a campaign. The parts follow its version: `applied` says how far they have.
--
-- KEYS  campaign, outbox
-- ARGV  states it may come from (separated by spaces), state to go to, now (ms), reason (JSON, or empty)
-- Gives {1, version}; {0, state it is in} where that may not change so; {2, 0} with admitted rows not yet active (drain the outbox, then
--       again); {3, 0} where it is to be launched without any recipient.
-- Again: the second call finds the new state and says {0, state}.
local campaign, outbox = KEYS[1], KEYS[2]
local at = redis.call('HMGET', campaign, 'state', 'started', 'numbers')
local allowed = false
for state in string.gmatch(ARGV[1], '%S+') do allowed = allowed or state == at[1] end
if not allowed then return { 0, at[1] or '' } end
-- Recipients come in while it is a draft or scheduled. What was admitted until then becomes active before anything is claimed, swept or
-- found to be complete; after that the outbox stays empty.
if (at[1] == 'draft' or at[1] == 'scheduled') and redis.call('EXISTS', outbox) == 1 then return { 2, 0 } end
if at[1] == 'draft' and ARGV[2] ~= 'cancelled' and at[3] == '0' then return { 3, 0 } end
redis.call('HSET', campaign, 'state', ARGV[2], 'reason', ARGV[4])
if ARGV[2] == 'running' and not at[2] then redis.call('HSET', campaign, 'started', ARGV[3]) end
if ARGV[2] == 'completed' or ARGV[2] == 'cancelled' then redis.call('HSET', campaign, 'ended', ARGV[3]) end
return { 1, redis.call('HINCRBY', campaign, 'version', 1) }
