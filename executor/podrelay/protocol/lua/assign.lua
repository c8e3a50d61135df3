-- Give the launch of a leased job an idle warm pod of its shape, or find the pod that it has already.
-- Runs behind prelude.lua.
--
-- KEYS: 1 launch:<id>  2 warm_pods:<cluster>  3 warm_idle:<cluster>:<shape>  4 warm_arrivals:<cluster>  5 warm_state:<cluster>
-- ARGV: 1 launch id  2 attempt  3 rq:wip key of the job's queue  4 the lease in it  5 current  6 shape  7 '', or why the launch
--       gets no pod  8 seconds after which an idle pod is not given: it is about to end itself  9 warm_shapes:<cluster>
--       10 mailbox prefix  11 rq:job key of the job  12 seconds for which arrivals are kept  13 maximum number of arrivals
-- Returns one of
--   lost | unwanted | over                as fence_launch says; over also: the attempt has a pod on record
--   condemned, sealed record or ''        the launch had a pod that will never get the workload
--   again, sealed record or '', name, warm id or '', delivered ('1' or '')    the launch has this pod already
--   assigned, sealed record, name, warm id, ''                  this pod is the launch's now, and no longer in the pool
--   cold, why                             no pod
-- Whether an attempt is warm is decided once: one that is cold, or whose pod was condemned, stays cold, and so does one that a
-- launcher tried before. Its request for a pod may still be on its way, and only another one of the same name cannot double it.
run_when_full(KEYS[1])
local now, shape, why = redis_time(), ARGV[6], ARGV[7]
local entry = read_warm_ledger(KEYS[1], 'state', 'subject', 'condemned', 'warm_pod', 'delivered', 'warm_record', 'start',
  'warm_id')
local obstacle = fence_launch(KEYS[1], entry, ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
if obstacle and obstacle ~= 'exists' then return { obstacle } end
if obstacle and not entry[5] then return { 'over' } end
if entry[4] then return { 'condemned', entry[7] or '' } end
if entry[5] then return { 'again', entry[7] or '', entry[5], entry[9] or '', entry[6] == '1' and '1' or '' } end

local function cold(reason)
  redis.call('HDEL', KEYS[1], unpack(WARM_FIELDS))
  redis.call('HSET', KEYS[1], 'start', reason, 'warm_attempt', ARGV[2])
  return { 'cold', reason }
end
if entry[8] then return { 'cold', string.sub(entry[8], 1, 40) } end
if number_of(redis.call('HGET', ARGV[11], 'waits')) > 0 then return cold('retried') end
if why ~= '' then return cold(why) end

redis.call('ZADD', KEYS[4], 'NX', seconds(now), shape .. ':' .. ARGV[1] .. '_' .. ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', seconds(now - tonumber(ARGV[12])))
local excess = redis.call('ZCARD', KEYS[4]) - tonumber(ARGV[13])
if excess > 0 then redis.call('ZREMRANGEBYRANK', KEYS[4], 0, excess - 1) end
redis.call('EXPIRE', KEYS[4], 2 * tonumber(ARGV[12]))
if redis.call('HEXISTS', ARGV[9], shape) == 0 then return cold('new_shape') end
redis.call('HSET', KEYS[5], shape .. ' seen', seconds(now))

local function missed(reason)
  redis.call('HINCRBY', KEYS[5], shape .. ' misses', 1)
  return cold(reason)
end
local off_s = number_of(redis.call('HGET', KEYS[5], shape .. ' off_until')) - now
if off_s > 0 and off_s <= POOL_OFF_MOST_S then return missed('pool_off') end

-- Oldest first: the others live longer. One that gives no sign of life gets a negative time, so that no launch looks at it
-- again; the keeper finds it, and if it is back, its time counts again.
local eldest = seconds(now - tonumber(ARGV[8]))
local waiting = redis.call('ZRANGEBYSCORE', KEYS[3], eldest, seconds(now + 1), 'WITHSCORES', 'LIMIT', 0, 64)
for i = 1, #waiting, 2 do
  local id, value = waiting[i], redis.call('HGET', KEYS[2], waiting[i])
  local pod = parse_warm_pod(id, value)
  if not pod or pod.shape ~= shape then
    redis.call('ZREM', KEYS[3], id)
  elseif redis.call('EXISTS', ARGV[10] .. pod.mailbox .. ':alive') == 0 then
    redis.call('ZADD', KEYS[3], '-' .. waiting[i + 1], id)
  else
    local record = string.sub(value, pod.record_at)
    redis.call('ZREM', KEYS[3], id)
    redis.call('HDEL', KEYS[2], id)
    redis.call('HDEL', KEYS[1], 'delivered', 'condemned')
    redis.call('HSET', KEYS[1], 'warm_pod', pod.name, 'warm_id', id, 'warm_record', record, 'start', 'warm',
      'warm_attempt', ARGV[2])
    redis.call('HINCRBY', KEYS[5], shape .. ' hits', 1)
    return { 'assigned', record, pod.name, id, '' }
  end
end
return missed('no_idle_pod')
