-- Condemn the warm pod of a launch: it will never get the workload. Not if it has taken it already.
-- Runs behind prelude.lua.
--
-- KEYS: 1 launch:<id>  2 mailbox:<name>:in  3 mailbox:<name>:taken
-- ARGV: 1 launch id  2 attempt  3 rq:wip key of the job's queue  4 the lease in it  5 current  6 warm id of the pod, '' = whichever
--       the ledger names  7 its name  8 its record that says so, encrypted, '' = the old one
-- Returns taken_back | taken | unknown (delivered, and neither there nor taken: the pod may have it) | lost | over (fence_launch)
-- The pod moves the workload out of its mailbox in one step: either it has it, or this script removes it for good.
run_when_full(KEYS[1])
local entry = read_warm_ledger(KEYS[1], 'state', 'subject', 'condemned', 'warm_id', 'delivered', 'warm_pod')
local obstacle = fence_launch(KEYS[1], entry, ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
if obstacle == 'over' then redis.call('DEL', KEYS[2]) end  -- it ended before it looked
if obstacle == 'over' or obstacle == 'lost' then return obstacle end
if entry[4] then return entry[4] == ARGV[7] and 'taken_back' or 'lost' end
if not entry[5] and not entry[7] or ARGV[6] ~= '' and entry[5] ~= ARGV[6] then return 'lost' end
if obstacle == 'exists' then return 'taken' end  -- the launch has this pod on record
if entry[6] == '1' then
  if redis.call('LLEN', KEYS[2]) == 0 then return redis.call('EXISTS', KEYS[3]) == 1 and 'taken' or 'unknown' end
end
redis.call('DEL', KEYS[2])
condemn(KEYS[1], ARGV[7])
if ARGV[8] ~= '' then redis.call('HSET', KEYS[1], 'warm_record', ARGV[8]) end
return 'taken_back'
