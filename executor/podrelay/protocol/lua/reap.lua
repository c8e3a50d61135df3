-- Requeue the jobs of expired leases, whose launcher is dead or cut off: to the front of the queue, once, whoever calls.
-- Also registers fair queues again that `fair_queues` lost while their lists survived (a Redis that evicts keys).
-- Runs behind prelude.lua.
--
-- KEYS: 1 quarantine  2 rq:queues  3 fair_queues:<cluster>
-- ARGV: 1 worker  2 execution id  3 lease (s)  4 losses after which a job is considered the cause  5 maximum per queue
--       6 launch prefix  7 rq:job prefix  8 rq:queue prefix  9 rq:wip prefix  10 wake channel
--       11 mark after a level's queue in the name of a fair queue  then the queues
-- Returns how many jobs were requeued, and flat (job id, queue, data, the launch's warm pod or '') the jobs that lost too many
-- launchers: they are now leased to the caller, who publishes their failure and finishes them as failed.
run_when_full(KEYS[1])
local now = redis_time()
local requeued, crashed = 0, {}

local function requeue(id, key, queue)
  redis.call('HSET', key, 'status', 'queued', 'worker_name', '', 'started_at', '')
  redis.call('LPUSH', ARGV[8] .. queue, id)
  local launch, attempt = parse_job_id(id)
  if launch then
    local ledger = ARGV[6] .. launch
    local entry = read_ledger(ledger, 'state')
    if entry[2] == 'claimed' and entry[1] == attempt then redis.call('HSET', ledger, 'state', 'offered') end
  end
  requeued = requeued + 1
end

local function lease_to_caller(id, key, queue)
  quarantine(KEYS[1], id, 'launchers_lost', 'every launcher that held it was lost')
  redis.call('ZADD', ARGV[9] .. queue, seconds(now + tonumber(ARGV[3])), id .. ':' .. ARGV[2])
  crashed[#crashed + 1] = id; crashed[#crashed + 1] = queue
  crashed[#crashed + 1] = redis.call('HSTRLEN', key, 'data') <= JOB_MAX and redis.call('HGET', key, 'data') or ''
  local launch = parse_job_id(id)
  crashed[#crashed + 1] = launch and read_warm_ledger(ARGV[6] .. launch, 'warm_pod')[2] or ''
end

for i = 12, #ARGV do
  local queue = ARGV[i]
  local leases = redis.call('ZRANGEBYSCORE', ARGV[9] .. queue, '-inf', seconds(now), 'LIMIT', 0, ARGV[5])
  -- A lease that ends later than any launcher's would never end.
  for _, lease in ipairs(redis.call('ZRANGEBYSCORE', ARGV[9] .. queue, seconds(now + LEASE_MOST_S + 1), '+inf', 'LIMIT', 0, ARGV[5])) do
    leases[#leases + 1] = lease
  end
  for j = #leases, 1, -1 do
    local id = string.match(leases[j], '^([^:]*):')
    redis.call('ZREM', ARGV[9] .. queue, leases[j])
    local key = id and ARGV[7] .. id
    if id and is_job_id(id) and redis.call('HGET', key, 'status') == 'started' then
      redis.call('HINCRBY', key, 'waits', 1)  -- a try whose effect is unknown
      if redis.call('HINCRBY', key, 'losses', 1) > tonumber(ARGV[4]) then lease_to_caller(id, key, queue)
      else requeue(id, key, queue) end
    end
  end
end
local lists = redis.call('SCARD', KEYS[2]) <= FIELDS_MOST and redis.call('SMEMBERS', KEYS[2]) or {}
for _, list in ipairs(lists) do
  for i = 12, string.find(list, ARGV[11], 1, true) and #ARGV or 0 do
    local beginning = ARGV[8] .. ARGV[i] .. ARGV[11]
    if string.sub(list, 1, #beginning) == beginning then
      redis.call('HSETNX', KEYS[3], string.sub(list, #ARGV[8] + 1), ARGV[i])
    end
  end
end
if requeued > 0 then redis.call('PUBLISH', ARGV[10], '1') end
return { requeued, crashed }
