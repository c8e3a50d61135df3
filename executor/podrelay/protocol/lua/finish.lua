-- Give jobs back, each with what became of it. Nothing is written for a job whose lease another launcher has taken over.
--
-- KEYS: 1 results  2 rq:queues  3 live:<cluster>
-- ARGV: 1 worker  2 now (RQ's text)  3 launch prefix  4 rq:job prefix  5 rq:queue prefix  6 rq:wip prefix
--       7 rq:scheduled prefix  8 rq:finished prefix  9 rq:failed prefix  10 rq:results prefix  11 result ttl (s)
--       12 failure ttl (s)  13 finished, and failed, jobs kept at most, per queue  14 data that replaces a finished job's payload
--       15 greatest length of the results stream  16 wake channel  17 JSON, one array per job: what, job id, execution id, queue, a .. e
--   created   a pod  b namespace  c uid  d t_created (s)
--   done
--   failed    a error text, as RQ keeps it in a result: zlib in base64
--   back                                             to the front of its queue: nothing was tried
--   wait      a seconds  b reason  c message  d sealed pending result or ''  e 1 if it was a try
--   abandon   a clean-up queue  b clean-up job id  c its data  d its description: its pod is not wanted any more
--   order     as abandon, for a job that is not held (any more)
-- Returns one word per job: ok | lost | unwanted (created, but withdrawn or superseded meanwhile: still held, abandon it)
--   | broken (a key is not of our making: the job is let go)
local worker, text, ledgers, hashes, lists, wip = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local result_ttl, failure_ttl, keep = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local answers, finished, failed, woken = {}, {}, {}, false
local function seconds(value) return string.format('%.6f', value) end

local function ledger_of(id)
  local launch, attempt = string.match(id, '^([%w-]+)_(%d+)$')
  if not launch then return nil end
  local ledger = ledgers .. launch
  local entry = redis.call('HMGET', ledger, 'state', 'attempt', 'pod')
  if not entry[1] then return nil end
  return ledger, entry[1], entry[2] == attempt, launch, attempt, entry[3]
end

local function set_job(id, ...)
  local hash = hashes .. id
  if redis.call('EXISTS', hash) == 0 then return false end  -- deleted by an operator: it stays deleted
  redis.call('HSET', hash, ...)
  return true
end

local function finish(id, queue, status)
  if set_job(id, 'status', status, 'ended_at', text, 'data', ARGV[14]) then
    redis.call('EXPIRE', hashes .. id, result_ttl)
    if status == 'finished' then
      redis.call('ZADD', ARGV[8] .. queue, seconds(now + result_ttl), id)
      finished[queue] = true
    end
  end
end

local function put_front(id, queue)
  if set_job(id, 'status', 'queued', 'worker_name', '', 'started_at', '') then
    redis.call('LPUSH', lists .. queue, id)
    woken = true
  end
end

local function order(queue, id, data, description)
  if redis.call('EXISTS', hashes .. id) == 1 then return end
  redis.call('HSET', hashes .. id, 'created_at', text, 'enqueued_at', text, 'data', data, 'description', description,
    'origin', queue, 'status', 'queued', 'timeout', '180', 'result_ttl', ARGV[11], 'failure_ttl', ARGV[12],
    'retries_left', '1000', 'kind_of', 'cleanup', 'worker_name', '', 'started_at', '', 'ended_at', '',
    'last_heartbeat', '')
  redis.call('SADD', KEYS[2], lists .. queue)
  redis.call('RPUSH', lists .. queue, id)
  woken = true
end

local effects = {}

function effects.created(id, queue, a, b, c, d)
  local ledger, state, same, launch = ledger_of(id)
  if ledger and same then
    if state == 'offered' or state == 'waiting' or state == 'claimed' then
      redis.call('HDEL', ledger, 'reason', 'message')
      redis.call('HSET', ledger, 'state', 'created')
    end
    redis.call('HSET', ledger, 'pod', a, 'namespace', b, 'uid', c, 'launcher', worker, 't_created', d)
  end
  if ledger and (not same or state == 'withdrawn') then return 'unwanted' end
  if ledger and state ~= 'finished' and state ~= 'acknowledged' then redis.call('ZADD', KEYS[3], d, launch) end
  finish(id, queue, 'finished')
end

function effects.done(id, queue) finish(id, queue, 'finished') end

function effects.failed(id, queue, a)
  if not set_job(id, 'status', 'failed', 'ended_at', text) then return end
  redis.call('EXPIRE', hashes .. id, failure_ttl)
  redis.call('ZADD', ARGV[9] .. queue, seconds(now + failure_ttl), id)
  redis.call('XADD', ARGV[10] .. id, 'MAXLEN', 10, '*', 'type', '2', 'worker_name', worker, 'exc_string', a)
  redis.call('EXPIRE', ARGV[10] .. id, failure_ttl)
  failed[queue] = true
end

function effects.back(id, queue)
  local ledger, state, same = ledger_of(id)
  if ledger and same and state == 'claimed' then redis.call('HSET', ledger, 'state', 'offered') end
  put_front(id, queue)
end

function effects.wait(id, queue, a, b, c, d, e)
  local ledger, state, same, launch, attempt = ledger_of(id)
  if ledger and (not same or state == 'withdrawn') then return finish(id, queue, 'canceled') end
  if ledger and (state == 'claimed' or state == 'offered' or state == 'waiting') then
    redis.call('HSET', ledger, 'state', 'waiting', 'reason', b, 'message', c)
    if d ~= '' then
      redis.call('HSET', ledger, 't_pending', seconds(now))
      redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[15], '*', 'launch', launch, 'attempt', attempt,
        'outcome', 'pending', 'result', d)
    end
  end
  if set_job(id, 'status', 'scheduled', 'worker_name', '') then
    redis.call('HINCRBY', hashes .. id, 'waits', e)
    redis.call('ZADD', ARGV[7] .. queue, seconds(now + tonumber(a)), id)
  end
end

function effects.abandon(id, queue, a, b, c, d)
  finish(id, queue, 'canceled')
  order(a, b, c, d)
end

for _, item in ipairs(cjson.decode(ARGV[17])) do
  local what, id, queue = item[1], item[2], item[4]
  local member = id .. ':' .. item[3]
  local answer = 'ok'
  if what == 'order' then
    order(item[5], item[6], item[7], item[8])
  elseif not redis.call('ZSCORE', wip .. queue, member) then
    answer = 'lost'
  else
    local fine, told = pcall(effects[what], id, queue, item[5], item[6], item[7], item[8], item[9])
    answer = fine and (told or 'ok') or 'broken'
    if answer ~= 'unwanted' then redis.call('ZREM', wip .. queue, member) end
  end
  answers[#answers + 1] = answer
end

-- The oldest make room, however short the time: Redis must not fill up with what is over.
local function trim(registry)
  redis.call('ZREMRANGEBYSCORE', registry, '-inf', seconds(now))
  local excess = redis.call('ZCARD', registry) - keep
  if excess <= 0 then return end
  local old = redis.call('ZPOPMIN', registry, math.min(excess, 512))
  for i = 1, #old, 2 do redis.call('DEL', hashes .. old[i], ARGV[10] .. old[i]) end
end

for queue in pairs(finished) do trim(ARGV[8] .. queue) end
for queue in pairs(failed) do trim(ARGV[9] .. queue) end
if woken then redis.call('PUBLISH', ARGV[16], '1') end
return answers
