-- Give jobs back, each with what became of it. Nothing is written for a job whose lease another launcher has taken over.
-- Runs behind prelude.lua.
--
-- KEYS: 1 results  2 rq:queues  3 live:<cluster>
-- ARGV: 1 worker  2 now (RQ's text)  3 launch prefix  4 rq:job prefix  5 rq:queue prefix  6 rq:wip prefix
--       7 rq:scheduled prefix  8 rq:finished prefix  9 rq:failed prefix  10 rq:results prefix  11 result ttl (s)
--       12 failure ttl (s)  13 maximum of finished, and of failed, jobs per queue  14 data that replaces a finished job's
--       15 maximum length of the results stream  16 wake channel
--       17 JSON, one array per job: what, job id, execution id, queue, then the arguments of what:
--   created   pod, namespace, uid, t_created (s)
--   done
--   failed    error text as RQ keeps it in a result: zlib in base64
--   back                                                        to the front of its queue: nothing was tried
--   wait      seconds, reason, message, encrypted pending report or '', 1 if it was a try
--   abandon   clean-up queue, clean-up job id, its data, its description      the pod is not wanted any more
--   order     as abandon, for a job that is not held (any more)
-- Returns one word per job: ok | lost | unwanted (created, but withdrawn or superseded meanwhile: still held, abandon it)
--   | broken (data that no script could use: the job is released) | refused and the error (Redis refused a write: still held, write
--   the same again later)
run_when_full(KEYS[1])
local worker, text, launch_prefix, job_prefix, list_prefix, wip_prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local now = redis_time()
local result_ttl, failure_ttl, keep = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local answers, finished, failed, woken = {}, {}, {}, false

-- Ledger key of a job's launch, state, whether the ledger is at the job's attempt, launch id, attempt; nil if unknown.
local function ledger_of(id)
  local launch, attempt = parse_job_id(id)
  if not launch then return nil end
  local ledger = launch_prefix .. launch
  local entry = read_ledger(ledger, 'state')
  if not entry[2] then return nil end
  return ledger, entry[2], entry[1] == attempt, launch, attempt
end

local function set_job(id, ...)
  local key = job_prefix .. id
  if redis.call('HEXISTS', key, 'status') == 0 then return false end  -- deleted by an operator: it stays deleted
  redis.call('HSET', key, ...)
  return true
end

local function finish(id, queue, status)
  if set_job(id, 'status', status, 'ended_at', text, 'data', ARGV[14]) then
    redis.call('EXPIRE', job_prefix .. id, result_ttl)
    if status == 'finished' then
      redis.call('ZADD', ARGV[8] .. queue, seconds(now + result_ttl), id)
      finished[queue] = true
    end
  end
end

local function queue_cleanup(queue, id, data, description)
  if redis.call('EXISTS', job_prefix .. id) == 1 then return end
  redis.call('SADD', KEYS[2], list_prefix .. queue)
  redis.call('RPUSH', list_prefix .. queue, id)
  -- Last: if Redis refuses a write, the order is not taken for one that is in its list.
  write_job(job_prefix .. id, 'cleanup', queue, data, description, text, ARGV[11], ARGV[12], '1000')
  woken = true
end

local effects = {}

function effects.created(id, queue, pod, namespace, uid, created)
  local ledger, state, same, launch = ledger_of(id)
  if ledger and same then
    if waits_for_pod(state) then
      redis.call('HDEL', ledger, 'reason', 'message')
      redis.call('HSET', ledger, 'state', 'created')
    end
    redis.call('HSET', ledger, 'pod', pod, 'namespace', namespace, 'uid', uid, 'launcher', worker, 't_created', created)
  end
  if ledger and (not same or state == 'withdrawn') then return 'unwanted' end
  if ledger and state ~= 'finished' and state ~= 'acknowledged' then redis.call('ZADD', KEYS[3], created, launch) end
  finish(id, queue, 'finished')
end

function effects.done(id, queue) finish(id, queue, 'finished') end

function effects.failed(id, queue, compressed_error)
  if not set_job(id, 'status', 'failed', 'ended_at', text) then return end
  redis.call('EXPIRE', job_prefix .. id, failure_ttl)
  redis.call('ZADD', ARGV[9] .. queue, seconds(now + failure_ttl), id)
  redis.call('XADD', ARGV[10] .. id, 'MAXLEN', 10, '*', 'type', '2', 'worker_name', worker, 'exc_string', compressed_error)
  redis.call('EXPIRE', ARGV[10] .. id, failure_ttl)
  failed[queue] = true
end

function effects.back(id, queue)
  local ledger, state, same = ledger_of(id)
  if ledger and same and state == 'claimed' then redis.call('HSET', ledger, 'state', 'offered') end
  if set_job(id, 'status', 'queued', 'worker_name', '', 'started_at', '') then
    redis.call('LPUSH', list_prefix .. queue, id)
    woken = true
  end
end

function effects.wait(id, queue, wait_s, reason, message, report, tries)
  local ledger, state, same, launch, attempt = ledger_of(id)
  if ledger and (not same or state == 'withdrawn') then return finish(id, queue, 'canceled') end
  if ledger and waits_for_pod(state) then
    redis.call('HSET', ledger, 'state', 'waiting', 'reason', reason, 'message', message)
    if report ~= '' then
      redis.call('HSET', ledger, 't_pending', seconds(now))
      redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[15], '*', 'launch', launch, 'attempt', attempt,
        'outcome', 'pending', 'result', report)
    end
  end
  if set_job(id, 'status', 'scheduled', 'worker_name', '', 'meta', meta_of_wait(reason, message)) then
    redis.call('HINCRBY', job_prefix .. id, 'waits', tries)
    redis.call('ZADD', ARGV[7] .. queue, seconds(now + tonumber(wait_s)), id)
  end
end

function effects.abandon(id, queue, cleanup_queue, cleanup_id, data, description)
  finish(id, queue, 'canceled')
  queue_cleanup(cleanup_queue, cleanup_id, data, description)
end

function effects.order(_, _, cleanup_queue, cleanup_id, data, description)
  queue_cleanup(cleanup_queue, cleanup_id, data, description)
end

local function apply(what, ...)
  local succeeded, word = pcall(effects[what], ...)
  if succeeded then return word or 'ok' end
  return is_data_fault(error_text(word)) and 'broken' or 'refused ' .. error_text(word)
end

for _, item in ipairs(cjson.decode(ARGV[17])) do
  local what, id, queue = item[1], item[2], item[4]
  local member = id .. ':' .. item[3]
  local answer = 'lost'
  if what == 'order' or redis.call('ZSCORE', wip_prefix .. queue, member) then
    answer = apply(what, id, queue, item[5], item[6], item[7], item[8], item[9])
    if what ~= 'order' and (answer == 'ok' or answer == 'broken') then redis.call('ZREM', wip_prefix .. queue, member) end
  end
  answers[#answers + 1] = answer
end

-- The oldest go first, even before their TTL: finished jobs must not fill Redis.
local function trim(registry)
  redis.call('ZREMRANGEBYSCORE', registry, '-inf', seconds(now))
  local excess = redis.call('ZCARD', registry) - keep
  if excess <= 0 then return end
  local oldest = redis.call('ZPOPMIN', registry, math.min(excess, 512))
  for i = 1, #oldest, 2 do
    if is_job_id(oldest[i]) then redis.call('DEL', job_prefix .. oldest[i], ARGV[10] .. oldest[i]) end
  end
end

for queue in pairs(finished) do trim(ARGV[8] .. queue) end
for queue in pairs(failed) do trim(ARGV[9] .. queue) end
if woken then redis.call('PUBLISH', ARGV[16], '1') end
return answers
