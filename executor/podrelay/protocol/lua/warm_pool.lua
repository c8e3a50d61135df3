-- Change the pool of warm pods of a cluster, or read from it.
-- Runs behind prelude.lua.
--
-- KEYS: 1 warm_pods:<cluster>  2 warm_shapes:<cluster>  3 warm_state:<cluster>
-- ARGV: 1 what  2 prefix of warm_idle: + shape  3 maximum number of pods  4 of shapes  5 maximum length of a shape's sealed pod
--       6.. the arguments of what:
--   add     warm id, shape, mailbox, name, sealed record    a pod that exists. Returns 1, or 0: the pool has too many
--   read    warm ids                                        Returns the sealed records, '' for a pod that is not in the pool
--   remove  warm ids                                        as read, and removes them: no launch gets them any more
--   save    shape, sealed pod                               the shape that was not seen for longest makes room for it
--   load    shape                                           Returns its sealed pod or ''
--   forget  shape                                           its sealed pod cannot be used
--   off     shape, seconds, why                             its launches get no pod. Returns 1, or 0 if it was off already
--   leave   keeper                                          gives up the lease of keep_warm.lua
run_when_full(KEYS[1])
local now, effects = redis_time(), {}

local function record_of(id)
  local value = redis.call('HGET', KEYS[1], id)
  local pod = parse_warm_pod(id, value)
  return pod and string.sub(value, pod.record_at) or '', pod
end

local function forget_shape(shape)
  redis.call('HDEL', KEYS[2], shape)
  for _, name in ipairs(WARM_FIGURES) do redis.call('HDEL', KEYS[3], shape .. ' ' .. name) end
end

function effects.add(id, shape, mailbox, name, record)
  if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) and redis.call('HEXISTS', KEYS[1], id) == 0 then return 0 end
  redis.call('HSET', KEYS[1], id, table.concat({ shape, mailbox, seconds(now), name, record }, ' '))
  return 1
end

function effects.read(...)
  local records = {}
  for i, id in ipairs({ ... }) do records[i] = record_of(id) end
  return records
end

function effects.remove(...)
  local records = {}
  for i, id in ipairs({ ... }) do
    local record, pod = record_of(id)
    records[i] = record
    redis.call('HDEL', KEYS[1], id)
    if pod then redis.call('ZREM', ARGV[2] .. pod.shape, id) end
  end
  return records
end

function effects.save(shape, sealed)
  if redis.call('HEXISTS', KEYS[2], shape) == 0 then
    local known = redis.call('HLEN', KEYS[2]) > 4 * tonumber(ARGV[4]) and {} or redis.call('HKEYS', KEYS[2])
    if #known == 0 then redis.call('DEL', KEYS[2]) end
    local seen = {}
    for _, name in ipairs(known) do seen[name] = number_of(redis.call('HGET', KEYS[3], name .. ' seen')) end
    table.sort(known, function(a, b) return seen[a] < seen[b] or (seen[a] == seen[b] and a < b) end)
    for i = 1, #known - tonumber(ARGV[4]) + 1 do forget_shape(known[i]) end
  end
  redis.call('HSET', KEYS[2], shape, sealed)
  redis.call('HSET', KEYS[3], shape .. ' seen', seconds(now))
  return 1
end

function effects.load(shape)
  if redis.call('HSTRLEN', KEYS[2], shape) <= tonumber(ARGV[5]) then return redis.call('HGET', KEYS[2], shape) or '' end
  note('key', KEYS[2], 'oversized', 'a field longer than podrelay writes, deleted')
  forget_shape(shape)
  return ''
end

function effects.forget(shape) forget_shape(shape); return 1 end

function effects.off(shape, off_s, why)
  local before = number_of(redis.call('HGET', KEYS[3], shape .. ' off_until')) - now
  redis.call('HSET', KEYS[3], shape .. ' off_until', seconds(now + tonumber(off_s)), shape .. ' off_why', why)
  return before > 0 and before <= POOL_OFF_MOST_S and 0 or 1
end

function effects.leave(keeper)
  if redis.call('HGET', KEYS[3], 'keeper') == keeper then redis.call('HSET', KEYS[3], 'keeper', '', 'expires', '0') end
  return 1
end

return effects[ARGV[1]](unpack(ARGV, 6))
