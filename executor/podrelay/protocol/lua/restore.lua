-- Restore the ledger entry of a launch from its pod, if Redis lost it; an existing entry stays as it is.
-- Runs behind prelude.lua.
--
-- KEYS: 1 launch:<id>  2 watch:<cluster>  3 live:<cluster>
-- ARGV: 1 leader id  2 its fence number  3 attempt  4 launch id  5 time of creation (s)  then fields and values; a
--       field state replaces created
-- Returns 1 restored; 0 known; -2 another watcher leads.
local term = redis.call('HMGET', KEYS[2], 'leader', 'fence')
if term[1] ~= ARGV[1] or term[2] ~= ARGV[2] then return -2 end
run_when_full(KEYS[1])
redis.call('ZADD', KEYS[3], 'NX', ARGV[5], ARGV[4])
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'state', 'created', 'attempt', ARGV[3], unpack(ARGV, 6))
return 1
