-- Offer launches: RQ job, ledger entry and `current`, in one atomic step; safe to repeat after a lost reply.
--
-- KEYS: 1 current  2 rq:queues  3 unacknowledged  4 fair_queues:<cluster>
-- ARGV: 1 launch prefix  2 rq:job prefix  3 rq:queue prefix  4 wake channel  5 now (s)  6 now (RQ's text)
--       7 result ttl (s)  8 failure ttl (s)  9 retries left  10 cluster  11 owner
--       12 ledger ttl (s)  13 rq:scheduled prefix  14 what makes a level's queue the owner's fair queue
--       then 11 per launch: launch id, attempt, job id, subject, queue, data, description, key, kind, namespace, relaunches
-- Returns one word per launch: offered | known (already waiting, held or made) | finished | withdrawn
-- The launch that `current` named before is withdrawn in the same step: two of one task instance are never both wanted.

local function withdraw_before(subject, launch)
  local before = redis.call('HGET', KEYS[1], subject)
  if not before or before == launch then return end
  local ledger = ARGV[1] .. before
  local held = redis.call('HMGET', ledger, 'state', 'attempt', 'queue', 'pod', 'started')
  if held[1] == 'finished' or held[1] == 'acknowledged' or held[1] == 'withdrawn' then return end
  redis.call('HSET', ledger, 'state', 'withdrawn', 'subject', subject)
  redis.call('EXPIRE', ledger, ARGV[12])
  if held[4] and held[5] ~= '1' then redis.call('ZADD', KEYS[3], 'NX', ARGV[5], before) end
  if held[2] and (held[1] == 'offered' or held[1] == 'waiting') then
    redis.call('DEL', ARGV[2] .. before .. '_' .. held[2])
    if held[3] then redis.call('ZREM', ARGV[13] .. held[3], before .. '_' .. held[2]) end
  end
end

-- Where the owner's launches of a level wait: in the level's queue, unless the last one there is another owner's; then in a
-- fair queue, until that is empty, so that the order of one owner's hand-over stays.
local chosen = {}
local function waiting_list(queue)
  if chosen[queue] then return chosen[queue] end
  local side, list = queue .. ARGV[14], queue
  if redis.call('EXISTS', ARGV[3] .. side) == 1 then
    list = side
  else
    local last = redis.call('LINDEX', ARGV[3] .. queue, -1)
    local launch = last and string.match(last, '^([%w-]+)_%d+$')
    local owner = launch and redis.pcall('HGET', ARGV[1] .. launch, 'owner')
    if type(owner) == 'string' and owner ~= ARGV[11] then list = side end
  end
  redis.call('SADD', KEYS[2], ARGV[3] .. queue, ARGV[3] .. list)
  if list == side then redis.call('HSET', KEYS[4], side, queue) end
  chosen[queue] = list
  return list
end

local answers, offered = {}, false
for i = 15, #ARGV, 11 do
  local launch, attempt, job, subject, queue = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local ledger, hash = ARGV[1] .. launch, ARGV[2] .. job
  local held = redis.call('HMGET', ledger, 'attempt', 'state')
  local known, state = tonumber(held[1] or -1), held[2]
  local answer = 'offered'
  if known > tonumber(attempt) then
    answer = 'known'
  elseif known == tonumber(attempt) and state then
    if state == 'finished' or state == 'acknowledged' then answer = 'finished'
    elseif state == 'withdrawn' then answer = 'withdrawn'
    elseif state == 'created' or state == 'started' then answer = 'known'
    elseif redis.call('EXISTS', hash) == 1 then
      local status = redis.call('HGET', hash, 'status')
      if status == 'queued' or status == 'started' or status == 'scheduled' then answer = 'known' end
    end
  elseif state == 'withdrawn' then
    answer = 'withdrawn'
  end
  if answer == 'offered' then
    redis.call('HSET', hash, 'created_at', ARGV[6], 'enqueued_at', ARGV[6], 'data', ARGV[i + 5],
      'description', ARGV[i + 6], 'origin', queue, 'status', 'queued', 'timeout', '180', 'result_ttl', ARGV[7],
      'failure_ttl', ARGV[8], 'retries_left', ARGV[9], 'kind_of', 'launch', 'worker_name', '', 'started_at', '',
      'ended_at', '', 'last_heartbeat', '')
    redis.call('PERSIST', hash)
    redis.call('HDEL', ledger, 'result', 'outcome', 'started', 'pod', 'uid', 'node', 'reason', 'message', 'wait',
      't_wait', 't_claimed', 't_created', 't_scheduled', 't_started', 't_finished', 't_reported')
    redis.call('HSET', ledger, 'state', 'offered', 'attempt', attempt, 'cluster', ARGV[10], 'owner', ARGV[11],
      'subject', subject, 'key', ARGV[i + 7], 'kind', ARGV[i + 8], 'namespace', ARGV[i + 9], 'queue', queue,
      'relaunches', ARGV[i + 10])
    redis.call('HSETNX', ledger, 't_offered', ARGV[5])
    redis.call('PERSIST', ledger)
    withdraw_before(subject, launch)
    redis.call('HSET', KEYS[1], subject, launch)
    redis.call('RPUSH', ARGV[3] .. waiting_list(queue), job)
    offered = true
  end
  answers[#answers + 1] = answer
end
if offered then redis.call('PUBLISH', ARGV[4], '1') end
return answers
