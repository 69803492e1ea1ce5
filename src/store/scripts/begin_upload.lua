-- Opens an upload, or finds how far it came before its connection was cut.
--
-- KEYS  campaign, upload
-- ARGV  lifetime of the record (ms)
-- Gives {state of the campaign, rows taken so far, digest of them, done: 1 or 0, accepted, rejected}.
-- Again: changes nothing.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return { '' } end
redis.call('HSETNX', KEYS[2], 'taken', 0)
redis.call('PEXPIRE', KEYS[2], ARGV[1])
local at = redis.call('HMGET', KEYS[2], 'taken', 'digest', 'done', 'accepted', 'rejected')
return { state, tonumber(at[1]), at[2] or '', tonumber(at[3]) or 0, tonumber(at[4]) or 0, tonumber(at[5]) or 0 }
