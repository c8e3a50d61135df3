-- Lease jobs from the queues of one cluster: RQ's keys, the fence, the lease and the ledger in one atomic step.
-- Runs behind prelude.lua.
--
-- KEYS: 1 throttle:<cluster>  2 quarantine  3 fair_queues:<cluster>  4 rq:queues
-- ARGV: 1 maximum number of jobs  2 how many of them from the lowest queue that has any  3 lease (s)  4 worker
--       5 execution id  6 now (RQ's text)  7 launch | cleanup  8 launch prefix  9 rq:job prefix  10 rq:queue prefix
--       11 rq:wip prefix  12 rq:scheduled prefix  13 seconds since the offer after which waiting for quota ends (0: never)
--       14 seconds after which a namespace's probe is given up  15 seconds between two reports of one wait
--       16 current  17 rq:suspended
--       then the queues, the most urgent first
-- Returns wait (s; > 0: nothing of this kind may be sent before), failures in a row, seconds until the next launch is due (-1:
--   none waits), 1 if the queues hold more jobs, number of superseded jobs dropped,
--   jobs    (flat, 12 each: job id, queue, data, tries, t_offered, time of the last report, 1 if it is a namespace's probe,
--            reason and message of a wait that lasted too long, else '' twice, clock_skew, t_attempt, the launch's warm pod or ''),
--   reports (flat, 4 each: launch id, attempt, reason, message of launches that wait for their namespace's quota),
--   now (s), 1 if RQ is suspended
-- t_offered is by the scheduler's clock, the other times are by Redis'; clock_skew is the difference of these clocks.
-- The fence: the ledger must name this attempt and want it, and `current` must name this launch.
-- A level's queue and its fair queues are served round robin in equal shares; the rotation continues in the next claim, of
-- whichever launcher. Requeued launches and those whose wait is over are at the front of the level's queue.
run_when_full(KEYS[1])
local most, low, lease = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local worker, execution, text, launches = ARGV[4], ARGV[5], ARGV[6], ARGV[7] == 'launch'
local launch_prefix, job_prefix, list_prefix, wip_prefix, scheduled_prefix = ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local patience, probe_s, report_every_s, first = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15]), 18
local now = redis_time()

local throttle, fields = {}, read_all(KEYS[1], FIELDS_MOST, VALUE_MAX)
for i = 1, #fields, 2 do throttle[fields[i]] = fields[i + 1] end
local function number_in_throttle(name) return number_of(throttle[name]) end
local failures = string.format('%.0f', within(throttle['failures'], 0, 1000))
-- Seconds until the time in this field. One that no launcher writes is removed: it could stop all work for good.
local function pause_of(name)
  local at = number_in_throttle(name)
  if not throttle[name] or (at > 0 and at - now <= PAUSE_MOST_S) then return at - now end
  redis.call('HDEL', KEYS[1], name)
  note('key', KEYS[1], 'pause', 'no pause that a launcher writes, deleted')
  return 0
end
local pause = pause_of('until')
if not launches then pause = math.max(pause, pause_of('cleanup_until')) end
if pause > 0 then return { seconds(pause), failures, '-1', 0, 0, {}, {}, seconds(now), 0 } end
if redis.call('EXISTS', ARGV[17]) == 1 then return { '1', failures, '-1', 0, 0, {}, {}, seconds(now), 1 } end

local jobs, reports, dropped, seen, taken, bytes = {}, {}, 0, 0, 0, 0
local CLAIM_MAX = 8388608  -- bytes of data after which a claim takes no further job
local limit = most + 256  -- delayed and dropped jobs count too, so that one call stays short

local function reject(id, key, kind, why)
  quarantine(KEYS[2], id, kind, why)
  redis.call('HSET', key, 'status', 'failed', 'ended_at', text)
  redis.call('EXPIRE', key, 600)
end

local function drop(key)
  dropped = dropped + 1
  redis.call('HSET', key, 'status', 'canceled', 'ended_at', text)
  redis.call('EXPIRE', key, 600)
end

-- Admission by a namespace's quota. After the wait one launch probes the quota; its result opens or closes the gate.
-- Returns nil where there is no gate, 'probe', or the time until which the launch is delayed.
local function gate(namespace)
  local closed_until = number_in_throttle('until:' .. namespace)
  if closed_until - now > QUOTA_PAUSE_MOST_S then
    note('key', KEYS[1], 'pause', 'no wait of a namespace that a launcher writes, deleted')
    redis.call('HDEL', KEYS[1], 'until:' .. namespace)
    throttle['until:' .. namespace], closed_until = nil, 0
  end
  if closed_until <= 0 then return nil end
  local allow = within(throttle['allow:' .. namespace], 0, 1000)
  local probing = throttle['probing:' .. namespace] == '1'
  if closed_until <= now then allow = 1 end
  if allow < 1 then
    if probing then return now + 0.2 end
    return closed_until
  end
  throttle['allow:' .. namespace], throttle['probing:' .. namespace] = tostring(allow - 1), '1'
  throttle['until:' .. namespace] = seconds(now + probe_s)
  redis.call('HSET', KEYS[1], 'allow:' .. namespace, tostring(allow - 1), 'probing:' .. namespace, '1',
    'until:' .. namespace, seconds(now + probe_s))
  return 'probe'
end

local function quota_refusal(namespace)
  local reason, message = throttle['reason:' .. namespace] or 'QuotaExceeded', throttle['message:' .. namespace] or ''
  return string.sub(reason, 1, 200), string.sub(message, 1, 4000)
end

local function delay(queue, id, key, ledger, launch, entry, at)
  -- Staggered: a long queue behind a quota is looked at two thousand times a second at most.
  local waiting = redis.call('ZCARD', scheduled_prefix .. queue)
  local reason, message = quota_refusal(entry[4] or '')
  redis.call('ZADD', scheduled_prefix .. queue, seconds(at + 0.01 + waiting / 2000), id)
  redis.call('HSET', key, 'status', 'scheduled', 'meta', meta_of_wait(reason, message))
  redis.call('HSET', ledger, 'state', 'waiting', 'reason', reason, 'message', message)
  if now - number_of(entry[6]) > report_every_s and now - number_of(entry[5]) > 5 and #reports < 256 then
    redis.call('HSET', ledger, 't_pending', seconds(now))
    for _, value in ipairs({ launch, entry[1], reason, message }) do reports[#reports + 1] = value end
  end
end

local function admit(queue, id)
  if not is_job_id(id) then return quarantine(KEYS[2], id, 'malformed', 'not a job id of ours') end
  local key = job_prefix .. id
  local job = unless_too_long(redis.call('HMGET', key, 'status', 'waits'))
  if not job[1] or job[1] ~= 'queued' then return end  -- withdrawn or deleted; or the list names the id twice
  local length = redis.call('HSTRLEN', key, 'data')
  if length == 0 then return reject(id, key, 'malformed', 'a job without data') end
  if length > JOB_MAX then
    redis.call('HDEL', key, 'data')
    return reject(id, key, 'oversized', 'a job with ' .. length .. ' bytes of data, more than podrelay writes')
  end
  local offered, reported, probe, reason, message = '0', '0', '0', '', ''
  local skew, attempt_offered, warm, claimed = '0', '0', '', nil
  if launches then
    local launch, attempt = parse_job_id(id)
    if not launch then return reject(id, key, 'malformed', 'not a job id of ours') end
    local ledger = launch_prefix .. launch
    local entry = read_warm_ledger(ledger, 'state', 'subject', 'namespace', 't_offered', 't_pending', 'clock_skew', 't_attempt',
      'warm_pod')
    local state = entry[2]
    if not state or not entry[1] then
      if state then return drop(key) end
      return reject(id, key, 'malformed', 'the ledger knows no such launch')
    end
    if not waits_for_pod(state) then return drop(key) end
    if entry[1] ~= attempt or redis.call('HGET', ARGV[16], entry[3] or '') ~= launch then return drop(key) end
    offered, reported, skew, attempt_offered = entry[5] or '0', entry[6] or '0', entry[7] or '0', entry[8] or '0'
    warm = entry[9] or ''
    local admission = gate(entry[4] or '')
    if admission == 'probe' then
      probe = '1'
    elseif admission then
      if patience > 0 and offered ~= '0' and now - number_of(skew) - number_of(offered) > patience then
        reason, message = quota_refusal(entry[4] or '')
      else
        return delay(queue, id, key, ledger, launch, entry, admission)
      end
    end
    claimed = ledger
  end
  -- First: if Redis refuses a later write, the job stays queued, and this lease ends.
  local member = id .. ':' .. execution
  redis.call('ZADD', wip_prefix .. queue, seconds(now + lease), member)
  if claimed then
    redis.call('HSET', claimed, 'state', 'claimed', 'launcher', worker, 'lease', member, 't_claimed', seconds(now))
  end
  redis.call('HSET', key, 'status', 'started', 'started_at', text, 'worker_name', worker, 'last_heartbeat', text, 'meta', '')
  taken, bytes = taken + 1, bytes + length
  for _, value in ipairs({
    id, queue, redis.call('HGET', key, 'data'), job[2] or '0', offered, reported, probe, reason, message, skew, attempt_offered, warm,
  }) do jobs[#jobs + 1] = value end
end

-- Level's queue -> itself and its fair queues; level's queue -> the place in that row that was served last.
local rows, served = {}, {}
for i = first, #ARGV do rows[ARGV[i]] = { ARGV[i] } end
local fair_queues = launches and read_all(KEYS[3], FIELDS_MOST, VALUE_MAX) or {}
for i = 1, #fair_queues, 2 do
  local name, value = fair_queues[i], fair_queues[i + 1]
  local row = rows[value]
  if row and string.sub(name, 1, #value + 4) == value .. '.by-' then
    row[#row + 1] = name
  elseif rows[name] then
    served[name] = math.floor(within(value, 0, 1e6))
  else
    redis.call('HDEL', KEYS[3], name)  -- of no queue of ours
  end
end

-- Pop ids from a list and admit each job; returns whether the list may hold more.
local function pop(queue, name, count)
  local ids = redis.call('LPOP', list_prefix .. name, count) or {}
  -- The ids from this place on go back to the front of their list.
  local function put_back(first_id)
    for j = #ids, first_id, -1 do redis.call('LPUSH', list_prefix .. name, ids[j]) end
  end
  for i, id in ipairs(ids) do
    if bytes > CLAIM_MAX then  -- the rest waits for the next claim
      put_back(i)
      seen = limit
      return true
    end
    seen = seen + 1
    local succeeded, caught = pcall(admit, queue, id)
    if not succeeded and not is_data_fault(error_text(caught)) then  -- Redis refuses a command: no fault of this job
      put_back(i)
      error(caught, 0)
    elseif not succeeded then  -- a key of another type: rejects one id, not its batch
      quarantine(KEYS[2], id, 'malformed', 'its keys are not of our making: ' .. error_text(caught))
      redis.call('DEL', job_prefix .. id)  -- so that its scheduler misses it, and offers it again
    end
  end
  return #ids == count
end

local function take(queue, want)
  local goal, row, empty, place = taken + want, rows[queue], {}, served[queue] or 0
  local left = #row
  table.sort(row)  -- the level's queue stays first: the names of its fair queues begin with its name
  while left > 0 and taken < goal and seen < limit do
    local share = math.max(1, math.floor(math.min(goal - taken, limit - seen) / left))
    for _ = 1, #row do
      local count = math.min(share, goal - taken, limit - seen)
      if count < 1 then break end
      place = place % #row + 1
      if not empty[place] and not pop(queue, row[place], count) then empty[place], left = true, left - 1 end
    end
  end
  if #row > 1 then served[queue] = place; redis.call('HSET', KEYS[3], queue, place) end
end

-- Launches whose wait is over go to the front of their queue, the longest wait first.
local due = -1
for i = first, #ARGV do
  local ids = redis.call('ZRANGEBYSCORE', scheduled_prefix .. ARGV[i], '-inf', seconds(now), 'LIMIT', 0, most)
  for j = #ids, 1, -1 do
    redis.call('ZREM', scheduled_prefix .. ARGV[i], ids[j])
    if is_job_id(ids[j]) and redis.call('HGET', job_prefix .. ids[j], 'status') == 'scheduled' then
      redis.call('HSET', job_prefix .. ids[j], 'status', 'queued')
      redis.call('LPUSH', list_prefix .. ARGV[i], ids[j])
    end
  end
end

for i = #ARGV, first, -1 do  -- strict priority alone would starve the low queues
  if low <= 0 or taken > 0 then break end
  take(ARGV[i], low)
end
for i = first, #ARGV do
  if taken >= most or seen >= limit then break end
  take(ARGV[i], most - taken)
end

-- Unregister empty fair queues; the offer that fills one registers it again.
local more, full = 0, taken >= most or seen >= limit
for i = first, #ARGV do
  local queue, row, left = ARGV[i], rows[ARGV[i]], 0
  for place = 2, #row do
    if redis.call('EXISTS', list_prefix .. row[place]) == 1 then
      left = left + 1
    else
      redis.call('HDEL', KEYS[3], row[place])
      redis.call('SREM', KEYS[4], list_prefix .. row[place])
    end
  end
  if #row > 1 and left == 0 then redis.call('HDEL', KEYS[3], queue) end
  if full and more == 0 and (left > 0 or redis.call('EXISTS', list_prefix .. queue) == 1) then more = 1 end
end
if more == 0 then
  for i = first, #ARGV do
    local next = redis.call('ZRANGE', scheduled_prefix .. ARGV[i], 0, 0, 'WITHSCORES')
    local at = number_of(next[2])
    if at > 0 and (due < 0 or at - now < due) then due = math.max(0, at - now) end
  end
end
return { '0', failures, seconds(due), more, dropped, jobs, reports, seconds(now), 0 }
