-- Offer launches: RQ job, ledger entry and `current` in one atomic step. May be repeated after a lost reply.
-- Runs behind prelude.lua.
--
-- KEYS: 1 current  2 rq:queues  3 unacknowledged  4 fair_queues:<cluster>
-- ARGV: 1 launch prefix  2 rq:job prefix  3 rq:queue prefix  4 wake channel  5 now (s)  6 now (RQ's text)
--       7 result ttl (s)  8 failure ttl (s)  9 retries left  10 cluster  11 owner
--       12 ledger ttl (s)  13 rq:scheduled prefix  14 suffix that turns a level's queue into the owner's fair queue
--       15 wake the launchers: 1 | 0 (another offer follows at once)
--       then 11 per launch: launch id, attempt, job id, subject, queue, data, description, key, kind, namespace, relaunches
-- Returns one word per launch: offered | known (already waiting, leased or created) | finished | acknowledged | withdrawn
-- A full Redis refuses the whole offer: its first write needs memory.
-- The launch that `current` named before is withdrawn in the same step: a task instance never has two wanted launches.
local launch_prefix, job_prefix, list_prefix, now, owner = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[11]
-- By how much Redis' clock is ahead of the scheduler's: launchers compare the end of a token with the scheduler's clock.
local redis_now = seconds(redis_time())
local clock_skew = seconds(tonumber(redis_now) - tonumber(now))

local function withdraw_previous(subject, launch)
  local previous = redis.call('HGET', KEYS[1], subject)
  if not previous or previous == launch then return end
  local ledger = launch_prefix .. previous
  local entry = read_ledger(ledger, 'state', 'queue', 'pod', 'started')
  local attempt, state, queue, pod, started = entry[1], entry[2], entry[3], entry[4], entry[5]
  if state == 'finished' or state == 'acknowledged' or state == 'withdrawn' then return end
  redis.call('HSET', ledger, 'state', 'withdrawn', 'subject', subject)
  redis.call('EXPIRE', ledger, ARGV[12])
  if pod and started ~= '1' then redis.call('ZADD', KEYS[3], 'NX', now, previous) end
  if attempt and (state == 'offered' or state == 'waiting') then
    redis.call('DEL', job_prefix .. previous .. '_' .. attempt)
    if queue then redis.pcall('ZREM', ARGV[13] .. queue, previous .. '_' .. attempt) end  -- the ledger may name any queue
  end
end

-- The queue in which the owner's launches of a level wait: the level's queue, unless its last launch has another owner; then
-- the owner's fair queue until that is empty, so that one owner's launches stay in the order of their offers.
local chosen = {}
local function waiting_queue(queue)
  if chosen[queue] then return chosen[queue] end
  local fair_queue, choice = queue .. ARGV[14], queue
  if redis.call('EXISTS', list_prefix .. fair_queue) == 1 then
    choice = fair_queue
  else
    local last = redis.call('LINDEX', list_prefix .. queue, -1)
    local launch = last and parse_job_id(last)
    local last_owner = launch and redis.pcall('HGET', launch_prefix .. launch, 'owner')
    if type(last_owner) == 'string' and last_owner ~= owner then choice = fair_queue end
  end
  redis.call('SADD', KEYS[2], list_prefix .. queue, list_prefix .. choice)
  if choice == fair_queue then redis.call('HSET', KEYS[4], fair_queue, queue) end
  chosen[queue] = choice
  return choice
end

-- What the ledger holds of an earlier attempt.
local PAST = { 'result', 'result_key', 'outcome', 'started', 'pod', 'uid', 'node', 'reason', 'message', 'wait', 't_wait', 'lease',
  't_claimed', 't_created', 't_scheduled', 't_started', 't_finished', 't_reported' }

local answers = {}
for i = 16, #ARGV, 11 do
  local launch, attempt, job, subject, queue = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local ledger, job_key = launch_prefix .. launch, job_prefix .. job
  local entry = read_ledger(ledger, 'state')
  local known, state = tonumber(entry[1] or -1), entry[2]
  local answer = 'offered'
  if known > tonumber(attempt) then
    answer = 'known'
  elseif known == tonumber(attempt) and state then
    if state == 'finished' or state == 'acknowledged' or state == 'withdrawn' then answer = state
    elseif state == 'created' or state == 'started' then answer = 'known'
    else
      local status = read_status(job_key)
      if status == 'queued' or status == 'started' or status == 'scheduled' then answer = 'known' end
    end
  elseif state == 'withdrawn' then
    answer = 'withdrawn'
  end
  if answer == 'offered' then
    -- First: if Redis refuses a later write, this launch is not taken for one that is in its list, and is offered again.
    redis.call('RPUSH', list_prefix .. waiting_queue(queue), job)
    write_job(job_key, 'launch', queue, ARGV[i + 5], ARGV[i + 6], ARGV[6], ARGV[7], ARGV[8], ARGV[9])
    redis.call('PERSIST', job_key)
    local fields = { 'state', 'offered', 'attempt', attempt, 'cluster', ARGV[10], 'owner', owner, 'subject', subject,
      'key', ARGV[i + 7], 'kind', ARGV[i + 8], 'namespace', ARGV[i + 9], 'queue', queue, 'relaunches', ARGV[i + 10],
      'clock_skew', clock_skew, 't_attempt', redis_now }
    if redis.call('EXISTS', ledger) == 1 then
      -- The same attempt again, because its job was lost: it keeps the warm pod that it may have.
      if known >= 0 and known < tonumber(attempt) then redis.call('HDEL', ledger, unpack(WARM_FIELDS)) end
      redis.call('HDEL', ledger, unpack(PAST))
      redis.call('HSETNX', ledger, 't_offered', now)
      redis.call('PERSIST', ledger)
    else
      fields[#fields + 1], fields[#fields + 2] = 't_offered', now
    end
    redis.call('HSET', ledger, unpack(fields))
    withdraw_previous(subject, launch)
    redis.call('HSET', KEYS[1], subject, launch)
  end
  answers[#answers + 1] = answer
end
if ARGV[15] == '1' then redis.call('PUBLISH', ARGV[4], 'launch') end
return answers
