-- Put the workload of a launch into the mailbox of its warm pod: once, whoever calls how often.
-- Runs behind prelude.lua.
--
-- KEYS: 1 launch:<id>  2 mailbox:<name>:in
-- ARGV: 1 launch id  2 attempt  3 rq:wip key of the job's queue  4 the lease in it  5 current  6 warm id of the pod
--       7 sealed workload  8 ttl of the mailbox (s)
-- Returns delivered | condemned (the pod will never get it) | lost | unwanted | over (fence_launch; over also: the attempt has
--   its pod on record)
-- Only the pod that the ledger names gets the workload: after a loss of data it names none, or another one.
run_when_full(KEYS[1])
local entry = read_warm_ledger(KEYS[1], 'state', 'subject', 'condemned', 'warm_id', 'delivered')
local obstacle = fence_launch(KEYS[1], entry, ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
if obstacle and obstacle ~= 'exists' then return obstacle end
if entry[5] == ARGV[6] and entry[6] == '1' then return 'delivered' end
if obstacle then return 'over' end
if entry[4] then return 'condemned' end
if entry[5] ~= ARGV[6] then return 'lost' end
redis.call('DEL', KEYS[2])  -- no launcher wrote what may be there
redis.call('RPUSH', KEYS[2], ARGV[7])
redis.call('EXPIRE', KEYS[2], ARGV[8])
redis.call('HSET', KEYS[1], 'delivered', '1', 't_started', seconds(redis_time()))
return 'delivered'
