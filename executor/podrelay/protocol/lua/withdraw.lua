-- Withdraw a launch that is no longer wanted (revoked, cleared, superseded): if it has no pod yet, it never gets one.
-- Runs behind prelude.lua.
--
-- KEYS: 1 launch:<id>  2 current  3 unacknowledged
-- ARGV: 1 launch id  2 subject  3 rq:job prefix  4 rq:scheduled prefix  5 now (s)  6 ledger ttl (s)
-- Returns the previous state, attempt, pod, namespace, uid, started.
-- The entry is written even for an unknown launch, so that a late offer of it is refused too.
-- The job's id stays in its queue, as removing it from the middle of a long list is slow; claims skip ids without a job.
-- A launch with a pod that waits becomes unacknowledged until somebody orders that pod's deletion: its scheduler may die.
run_when_full(KEYS[1])
local entry = read_ledger(KEYS[1], 'state', 'pod', 'namespace', 'uid', 'started', 'queue')
local attempt, state, pod, started, queue = entry[1], entry[2], entry[3], entry[6], entry[7]
if redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[1] then redis.call('HDEL', KEYS[2], ARGV[2]) end
if state ~= 'finished' and state ~= 'acknowledged' then
  redis.call('HSET', KEYS[1], 'state', 'withdrawn', 'subject', ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[6])
  if pod and started ~= '1' then redis.call('ZADD', KEYS[3], 'NX', ARGV[5], ARGV[1]) end
end
if attempt and (state == 'offered' or state == 'waiting') then
  local job = ARGV[1] .. '_' .. attempt
  redis.call('DEL', ARGV[3] .. job)
  if queue then redis.pcall('ZREM', ARGV[4] .. queue, job) end  -- the ledger may name any queue
end
return { state or '', attempt or '', pod or '', entry[4] or '', entry[5] or '', started or '' }
