-- Take jobs from the queues of one cluster: RQ's keys, the fence, the lease and the ledger in one atomic step.
--
-- KEYS: 1 throttle:<cluster>  2 current  3 rq:suspended  4 quarantine  5 fair_queues:<cluster>  6 rq:queues
-- ARGV: 1 greatest number of jobs  2 how many of them from the lowest queue that has any  3 lease (s)  4 worker
--       5 execution id  6 now (RQ's text)  7 launch | cleanup  8 launch prefix  9 rq:job prefix  10 rq:queue prefix
--       11 rq:wip prefix  12 rq:scheduled prefix  13 seconds since the offer after which waiting for quota ends (0: never)
--       14 seconds after which a namespace's probe is given up  15 seconds between two news of one launch
--       then the queues, the most urgent first
-- Returns wait (s; > 0: nothing may be created before), failures in a row, seconds until the next launch is due (-1:
--   none waits), 1 if there is more to take, superseded jobs dropped,
--   jobs  (flat, 9 each: job id, queue, data, tries, t_offered, time of the last news, 1 if it is a namespace's probe,
--          reason and message of what it waited for too long, '' if it did not),
--   news  (flat, 4 each: launch id, attempt, reason, message of launches that wait for their namespace's quota)
-- A launch is fenced: its ledger must name this attempt and want it, and `current` must name this launch.
-- A level's queue and the fair queues of other schedulers are served in turn, equal shares each; the turn goes on in the
-- next claim, whoever makes it. What was put back, or has waited for its time, is at the front of the level's queue.
local most, low, lease = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local worker, execution, text, launches = ARGV[4], ARGV[5], ARGV[6], ARGV[7] == 'launch'
local ledgers, hashes, lists, wip, scheduled = ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local patience, probe_s, news_s, first = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15]), 16
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local function seconds(value) return string.format('%.6f', value) end

local throttle, flat = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do throttle[flat[i]] = flat[i + 1] end
local failures = throttle['failures'] or '0'
local pause = tonumber(throttle['until'] or 0) - now
if pause > 0 then return { seconds(pause), failures, '-1', 0, 0, {}, {} } end
if redis.call('EXISTS', KEYS[3]) == 1 then return { '1', failures, '-1', 0, 0, {}, {} } end

local jobs, news, dropped, seen, taken = {}, {}, 0, 0, 0
local limit = most + 256  -- held and dropped jobs count too, so that one call stays short

local function quarantine(id, hash, why)
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', 10000, '*', 'job', id, 'why', why)
  redis.call('HSET', hash, 'status', 'failed', 'ended_at', text)
  redis.call('EXPIRE', hash, 600)
end

local function drop(hash)
  dropped = dropped + 1
  redis.call('HSET', hash, 'status', 'canceled', 'ended_at', text)
  redis.call('EXPIRE', hash, 600)
end

-- May a launch of this namespace go on? Past the gate's time one launch may try; what it meets opens or shuts the gate.
-- Returns nothing where there is no gate, 'probe', or the time until which to hold the launch.
local function gate(namespace)
  local shut = tonumber(throttle['until:' .. namespace] or 0)
  if shut == 0 then return nil end
  local allow = tonumber(throttle['allow:' .. namespace] or 0)
  local probing = throttle['probing:' .. namespace] == '1'
  if shut <= now then allow = 1 end
  if allow < 1 then
    if probing then return now + 0.2 end
    return shut
  end
  throttle['allow:' .. namespace], throttle['probing:' .. namespace] = tostring(allow - 1), '1'
  throttle['until:' .. namespace] = seconds(now + probe_s)
  redis.call('HSET', KEYS[1], 'allow:' .. namespace, tostring(allow - 1), 'probing:' .. namespace, '1',
    'until:' .. namespace, seconds(now + probe_s))
  return 'probe'
end

local function hold(queue, id, hash, ledger, launch, attempt, entry, at)
  -- Later ones come a little later: a long queue behind a quota is looked at two thousand times a second at most.
  local waiting = redis.call('ZCARD', scheduled .. queue)
  local reason = throttle['reason:' .. entry[4]] or 'QuotaExceeded'
  local message = throttle['message:' .. entry[4]] or ''
  redis.call('ZADD', scheduled .. queue, seconds(at + 0.01 + waiting / 2000), id)
  redis.call('HSET', hash, 'status', 'scheduled')
  redis.call('HSET', ledger, 'state', 'waiting', 'reason', reason, 'message', message)
  local told = tonumber(entry[6] or 0)
  if now - told > news_s and now - tonumber(entry[5] or now) > 5 and #news < 256 then
    redis.call('HSET', ledger, 't_pending', seconds(now))
    news[#news + 1] = launch; news[#news + 1] = attempt; news[#news + 1] = reason; news[#news + 1] = message
  end
end

local function admit(queue, id)
  local hash = hashes .. id
  local job = redis.call('HMGET', hash, 'status', 'data', 'waits')
  if not job[1] or job[1] ~= 'queued' then return end  -- withdrawn or deleted; or an id that stands twice in the list
  if not job[2] then return quarantine(id, hash, 'a job without data') end
  local offered, told, probe, reason, message = '0', '0', '0', '', ''
  if launches then
    local launch, attempt = string.match(id, '^([%w-]+)_(%d+)$')
    if not launch then return quarantine(id, hash, 'not a job id of ours') end
    local ledger = ledgers .. launch
    local entry = redis.call('HMGET', ledger, 'state', 'attempt', 'subject', 'namespace', 't_offered', 't_pending')
    local state = entry[1]
    if not state or not entry[2] then
      if state then return drop(hash) end
      return quarantine(id, hash, 'the ledger knows no such launch')
    end
    if state ~= 'offered' and state ~= 'waiting' and state ~= 'claimed' then return drop(hash) end
    if entry[2] ~= attempt or redis.call('HGET', KEYS[2], entry[3] or '') ~= launch then return drop(hash) end
    offered, told = entry[5] or '0', entry[6] or '0'
    local verdict = gate(entry[4] or '')
    if verdict == 'probe' then
      probe = '1'
    elseif verdict then
      if patience > 0 and offered ~= '0' and now - tonumber(offered) > patience then
        reason = throttle['reason:' .. entry[4]] or 'QuotaExceeded'
        message = throttle['message:' .. entry[4]] or ''
      else
        return hold(queue, id, hash, ledger, launch, attempt, entry, verdict)
      end
    end
    redis.call('HSET', ledger, 'state', 'claimed', 'launcher', worker, 't_claimed', seconds(now))
  end
  redis.call('HSET', hash, 'status', 'started', 'started_at', text, 'worker_name', worker, 'last_heartbeat', text)
  redis.call('ZADD', wip .. queue, seconds(now + lease), id .. ':' .. execution)
  taken = taken + 1
  for _, value in ipairs({ id, queue, job[2], job[3] or '0', offered, told, probe, reason, message }) do
    jobs[#jobs + 1] = value
  end
end

-- Level -> its own queue and the fair queues beside it, its own first; and the place in that row that had the last turn.
local rows, turns = {}, {}
for i = first, #ARGV do rows[ARGV[i]] = { ARGV[i] } end
local beside = launches and redis.call('HGETALL', KEYS[5]) or {}
for i = 1, #beside, 2 do
  local row = rows[beside[i + 1]]
  if row then row[#row + 1] = beside[i] else turns[beside[i]] = tonumber(beside[i + 1]) end
end

-- Pop so many ids, and look at each; whether there are perhaps more.
local function pop(queue, name, count)
  local ids = redis.call('LPOP', lists .. name, count) or {}
  for _, id in ipairs(ids) do
    seen = seen + 1
    if not pcall(admit, queue, id) then  -- a key of another type than ours: one id, not the batch that it is in
      redis.call('XADD', KEYS[4], 'MAXLEN', '~', 10000, '*', 'job', id, 'why', 'its keys are not of our making')
    end
  end
  return #ids == count
end

local function take(queue, want)
  local goal, row, ended, turn = taken + want, rows[queue], {}, turns[queue] or 0
  local left = #row
  table.sort(row)  -- its own queue stays first: the others begin with its name
  while left > 0 and taken < goal and seen < limit do
    local share = math.max(1, math.floor(math.min(goal - taken, limit - seen) / left))
    for _ = 1, #row do
      local count = math.min(share, goal - taken, limit - seen)
      if count < 1 then break end
      turn = turn % #row + 1
      if not ended[turn] and not pop(queue, row[turn], count) then ended[turn], left = true, left - 1 end
    end
  end
  if #row > 1 then turns[queue] = turn; redis.call('HSET', KEYS[5], queue, turn) end
end

-- What waited long enough goes to the front of its queue, the longest wait first.
local due = -1
for i = first, #ARGV do
  local ids = redis.call('ZRANGEBYSCORE', scheduled .. ARGV[i], '-inf', seconds(now), 'LIMIT', 0, most)
  for j = #ids, 1, -1 do
    redis.call('ZREM', scheduled .. ARGV[i], ids[j])
    if redis.call('HGET', hashes .. ids[j], 'status') == 'scheduled' then
      redis.call('HSET', hashes .. ids[j], 'status', 'queued')
      redis.call('LPUSH', lists .. ARGV[i], ids[j])
    end
  end
end

for i = #ARGV, first, -1 do  -- strict order alone would starve the low queues
  if low <= 0 or taken > 0 then break end
  take(ARGV[i], low)
end
for i = first, #ARGV do
  if taken >= most or seen >= limit then break end
  take(ARGV[i], most - taken)
end

-- A fair queue that is empty is known no more: the offer that fills it makes it known again.
local more, full = 0, taken >= most or seen >= limit
for i = first, #ARGV do
  local queue, row, left = ARGV[i], rows[ARGV[i]], 0
  for place = 2, #row do
    if redis.call('EXISTS', lists .. row[place]) == 1 then
      left = left + 1
    else
      redis.call('HDEL', KEYS[5], row[place])
      redis.call('SREM', KEYS[6], lists .. row[place])
    end
  end
  if #row > 1 and left == 0 then redis.call('HDEL', KEYS[5], queue) end
  if full and more == 0 and (left > 0 or redis.call('EXISTS', lists .. queue) == 1) then more = 1 end
end
if more == 0 then
  for i = first, #ARGV do
    local next = redis.call('ZRANGE', scheduled .. ARGV[i], 0, 0, 'WITHSCORES')
    if next[2] and (due < 0 or tonumber(next[2]) - now < due) then due = math.max(0, tonumber(next[2]) - now) end
  end
end
return { '0', failures, seconds(due), more, dropped, jobs, news }
