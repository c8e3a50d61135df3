-- Acquire or renew the lease of the keeper of a cluster's warm pods, and read the pool for it. Redis' clock counts.
-- Runs behind prelude.lua.
--
-- KEYS: 1 warm_state:<cluster>  2 warm_pods:<cluster>  3 warm_shapes:<cluster>  4 warm_arrivals:<cluster>
-- ARGV: 1 keeper  2 lease (s)  3 how many pods it keeps at most  4 mailbox prefix  5 prefix of warm_idle: + shape
--       6 maximum number of pods  7 of shapes  8 seconds for which arrivals are kept  9 maximum number of arrivals
--       10 ttl of the pool without a keeper (s)
-- Returns 0 if another launcher keeps the pool; else 1 if the lease is new, or 2,
--   pods      (flat, 5 each: warm id, shape, seconds since it was added, seconds since it was seen ready or '', 1 if it is alive),
--   shapes    (flat, 7 each: shape, seconds since its last launch, hits, misses, seconds until a pod is ready, seconds for
--              which its pool stays off, and why),
--   arrivals  (flat, 2 each: shape, seconds since then), the oldest first
-- A pod that gives a sign of life is idle from now on: this call promotes it, and no launch gets one before.
-- Whatever no launcher wrote is removed.
run_when_full(KEYS[1])
local now, lease = redis_time(), tonumber(ARGV[2])
local is_figure = {}
for _, name in ipairs(WARM_FIGURES) do is_figure[name] = true end

local state, fields = {}, read_all(KEYS[1], FIELDS_MOST, 4096)
for i = 1, #fields, 2 do state[fields[i]] = fields[i + 1] end
local keeper, expires = state['keeper'] or '', number_of(state['expires'])
if keeper ~= ARGV[1] and keeper ~= '' and expires > now and expires - now <= LEASE_MOST_S then
  -- As in lead.lua: a lease that ends later than this launcher's own would was hardly written by another one.
  if expires - now > lease + 0.1 then redis.call('HSET', KEYS[1], 'expires', seconds(now + lease)) end
  return 0
end
redis.call('HSET', KEYS[1], 'keeper', ARGV[1], 'expires', seconds(now + lease), 'most', ARGV[3])

-- A time that has passed: forged ones in the future count as now.
local function ago(at) return math.max(0, now - at) end

local shapes, order = {}, {}
if redis.call('HLEN', KEYS[3]) > 4 * tonumber(ARGV[7]) then
  note('key', KEYS[3], 'bounds', 'more fields than podrelay writes, deleted')
  redis.call('DEL', KEYS[3])
end
for _, shape in ipairs(redis.call('HKEYS', KEYS[3])) do
  if #shape == 16 and string.match(shape, '^%x+$') then
    shapes[shape] = {}
    order[#order + 1] = shape
  else
    redis.call('HDEL', KEYS[3], shape)
  end
end
table.sort(order)
for name in pairs(state) do
  local shape, what = string.match(name, '^(%x+) ([%l_]+)$')
  if name ~= 'keeper' and name ~= 'expires' and name ~= 'most' and not (shape and shapes[shape] and is_figure[what]) then
    redis.call('HDEL', KEYS[1], name)
  end
end

local function mean_ready(shape, took)
  local known = within(state[shape .. ' ready_s'], 0, 3600)
  local mean = seconds(known > 0 and 0.7 * known + 0.3 * took or took)
  state[shape .. ' ready_s'] = mean
  redis.call('HSET', KEYS[1], shape .. ' ready_s', mean)
end

-- The pool, in few commands: it may have thousands of pods. By shape: its pods, and since when its idle ones wait.
local by_shape, mailboxes = {}, {}
for shape in pairs(shapes) do by_shape[shape] = {} end
local found = read_all(KEYS[2], tonumber(ARGV[6]), VALUE_MAX)
for i = 1, #found, 2 do
  local id, pod = found[i], parse_warm_pod(found[i], found[i + 1])
  if pod then
    pod.id = id
    mailboxes[#mailboxes + 1] = ARGV[4] .. pod.mailbox .. ':alive'
    pod.place = #mailboxes
    by_shape[pod.shape] = by_shape[pod.shape] or {}
    table.insert(by_shape[pod.shape], pod)
  elseif id ~= '' or found[i + 1] ~= '' then
    note('key', KEYS[2], 'malformed', 'no warm pod that a launcher writes, deleted')
    redis.call('HDEL', KEYS[2], id)
  end
end
local alive = {}
for first = 1, #mailboxes, 1000 do
  for i, value in ipairs(redis.call('MGET', unpack(mailboxes, first, math.min(first + 999, #mailboxes)))) do
    alive[first + i - 1] = value and 1 or 0
  end
end

local pods = {}
for shape, members in pairs(by_shape) do
  local idle_key, since, counts = ARGV[5] .. shape, {}, shapes[shape] or {}
  if redis.call('ZCARD', idle_key) > tonumber(ARGV[6]) then redis.call('DEL', idle_key) end
  local scores = redis.call('ZRANGE', idle_key, 0, -1, 'WITHSCORES')
  for i = 1, #scores, 2 do since[scores[i]] = number_of(scores[i + 1]) end
  local known, kept = #scores / 2, 0
  counts.idle, counts.starting = 0, 0
  for _, pod in ipairs(members) do
    local score = since[pod.id]
    local ready = score and math.abs(score)  -- negative: a launch found it silent
    if ready then kept = kept + 1 end
    if alive[pod.place] == 1 then
      if not ready then mean_ready(shape, ago(pod.added)) end
      if not ready or ready > now + 1 or ready == 0 then ready = now end
      if ready ~= score then redis.call('ZADD', idle_key, seconds(ready), pod.id) end
      counts.idle = counts.idle + 1
    elseif not ready then
      counts.starting = counts.starting + 1
    end
    local row = { pod.id, shape, seconds(ago(pod.added)), ready and seconds(ago(ready)) or '', alive[pod.place] }
    for i = 1, 5 do pods[#pods + 1] = row[i] end
    since[pod.id] = nil
  end
  if kept < known then
    note('key', idle_key, 'malformed', 'ids of no warm pods, deleted')
    for id in pairs(since) do redis.call('ZREM', idle_key, id) end
  end
  redis.call('EXPIRE', idle_key, ARGV[10])
end

local described = {}
for _, shape in ipairs(order) do
  local function figure(name) return within(state[shape .. ' ' .. name], 0, 1e11) end
  redis.call('HSET', KEYS[1], shape .. ' idle', shapes[shape].idle, shape .. ' starting', shapes[shape].starting)
  local off_s = figure('off_until') - now
  if off_s > POOL_OFF_MOST_S then off_s = 0 end
  for _, value in ipairs({
    shape, seconds(ago(figure('seen'))), seconds(figure('hits')), seconds(figure('misses')), seconds(figure('ready_s')),
    seconds(math.max(0, off_s)), off_s > 0 and string.sub(state[shape .. ' off_why'] or '', 1, 1000) or '',
  }) do described[#described + 1] = value end
end

redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', seconds(now - tonumber(ARGV[8])))
redis.call('ZREMRANGEBYSCORE', KEYS[4], seconds(now + 1), '+inf')
local excess, arrivals = redis.call('ZCARD', KEYS[4]) - tonumber(ARGV[9]), {}
if excess > 0 then redis.call('ZREMRANGEBYRANK', KEYS[4], 0, excess - 1) end
local members = redis.call('ZRANGE', KEYS[4], 0, -1, 'WITHSCORES')
for i = 1, #members, 2 do
  local shape = string.match(members[i], '^(%x+):')
  if shape and #shape == 16 then
    arrivals[#arrivals + 1] = shape
    arrivals[#arrivals + 1] = seconds(ago(number_of(members[i + 1])))
  else
    redis.call('ZREM', KEYS[4], members[i])
  end
end
for i = 1, 3 do redis.call('EXPIRE', KEYS[i], ARGV[10]) end
return { keeper == ARGV[1] and 2 or 1, pods, described, arrivals }
