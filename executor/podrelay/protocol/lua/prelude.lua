-- Functions that several scripts share. `podrelay.store.script_table` puts them before each script that names this file.

-- Anybody with access to Redis can write any key, and one of another type would stop for good all work that needs it. So a
-- command that meets such a key deletes it and runs again, and so does one that meets a stream without room for another entry,
-- or a field that is to be incremented and is no number. Nothing that is lost is the only copy (invariant I4).
local server = redis
local PREFIX = string.match(KEYS[1], '^podrelay:[^:]*:')

-- Quarantine something beside the work of a script. quarantine.lua does it for Python.
local function note(source, name, kind, why)
  server.pcall('XADD', PREFIX .. 'quarantine', 'MAXLEN', '~', 10000, '*', source, string.sub(name, 1, 200), 'kind', kind,
    'why', why)
end

-- Delete a key, or a field of it, that holds nothing of podrelay.
local function remove(why, key, field)
  -- A user of Redis who may only read the key leaves it to a process that may write it.
  local reply = field and server.pcall('HDEL', key, field) or server.pcall('DEL', key)
  if type(reply) == 'table' and reply.err then return end
  note('key', key, 'malformed', why)
  -- Only a comparison from the beginning, as after a loss of all data, restores these.
  for _, name in ipairs({ 'results', 'unacknowledged', 'live:' }) do
    if string.sub(key, 1, #PREFIX + #name) == PREFIX .. name then server.pcall('DEL', PREFIX .. 'epoch') end
  end
end

local EXHAUSTED = 'a stream that takes no more entries, deleted'

-- Makes room for a command that failed because of what stands in its key.
local function mend(failure, command, key, field)
  if string.find(failure, 'WRONGTYPE', 1, true) then
    remove('a key of another type, deleted', key)
  elseif command == 'XADD' and (string.find(failure, 'exhausted', 1, true) or string.find(failure, 'equal or smaller', 1, true)) then
    remove(EXHAUSTED, key)
  elseif string.sub(command, 1, 5) == 'HINCR' and (string.find(failure, 'hash value', 1, true) or string.find(failure, 'increment', 1, true)) then
    remove('a field that is no number, deleted', key, field)
  end
end

local redis = {
  call = function(...)
    local reply = server.pcall(...)
    -- The same command again raises its error as Redis does, if nothing could be mended.
    if type(reply) == 'table' and reply.err then mend(reply.err, ...); return server.call(...) end
    return reply
  end,
  pcall = server.pcall,
}

-- Seconds since the epoch by Redis' clock.
local function redis_time()
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local function seconds(value) return string.format('%.6f', value) end

-- A full Redis refuses only the first write of a script, and only if that one may need memory. Most scripts end work that
-- exists, and so free memory: they begin with this write, which needs none and changes nothing, and then run to their end
-- also while Redis is full. docs/redis.md says what a full Redis accepts.
local function run_when_full(key) redis.call('DEL', key .. ':none') end

-- Is this error about the data: a text that is no number? Any other is a refusal by the server.
local function is_data_fault(text)
  for _, sign in ipairs({ 'WRONGTYPE', 'not an integer', 'not a valid float', 'not a float', 'attempt to', 'bad argument' }) do
    if string.find(text, sign, 1, true) then return true end
  end
  return false
end

-- The text of what pcall caught: a table since Redis 7, text before.
local function error_text(caught) return tostring(type(caught) == 'table' and caught.err or caught) end

-- What is longer was not written by podrelay (protocol/sizes.py): the data of a job, an encrypted report, any other value.
local JOB_MAX, RESULT_MAX, VALUE_MAX = 2097452, 131172, 16384

-- These values, with false for each that is too long to be returned.
local function unless_too_long(values, most)
  for i = 1, #values do
    if values[i] and #values[i] > (most or VALUE_MAX) then values[i] = false end
  end
  return values
end

-- Launch id and attempt of the RQ job of a launch; nil for any other id.
local function parse_job_id(id)
  local launch, attempt = string.match(id, '^([%w-]+)_(%d+)$')
  if launch and #launch <= 63 and #attempt <= 9 then return launch, attempt end
end

-- May this be the id of an RQ job of ours? A user of Redis has rights to such jobs only. With any other id, which anybody may
-- have put into a list, the whole script would fail.
local function is_job_id(id) return string.find(id, '_', 1, true) ~= nil end

-- A ledger entry: its attempt, then the given fields. An entry that no script of podrelay wrote (its attempt is no number) is
-- deleted, and reads as absent; a value that is too long reads as absent.
local function read_ledger(key, ...)
  local entry = redis.call('HMGET', key, 'attempt', ...)
  local attempt = entry[1]
  if attempt and (#attempt > 9 or not string.match(attempt, '^%d+$')) then
    note('launch', string.sub(key, #PREFIX + 8), 'malformed', 'a ledger entry whose attempt is no number, deleted')
    redis.call('DEL', key)
    return {}
  end
  for i, name in ipairs({ 'attempt', ... }) do
    if entry[i] and #entry[i] > (name == 'result' and RESULT_MAX or VALUE_MAX) then entry[i] = false end
  end
  return entry
end

-- Is this the state of a launch that has no pod on record yet?
local function waits_for_pod(state) return state == 'offered' or state == 'waiting' or state == 'claimed' end

-- The status of an RQ job; nil if there is none.
local function read_status(key) return redis.call('HGET', key, 'status') or nil end

-- The number in a field; 0 for any other text, and for a number that podrelay never writes: redis_values.py has the same rule.
local function number_of(text)
  local number = tonumber(text or '')
  return number and math.abs(number) <= 2 ^ 53 and number or 0
end

-- All fields of a hash that podrelay keeps small; one with more than `most` would make each script slow, and is deleted. So
-- are fields of more than `longest` bytes, if given.
local function read_all(key, most, longest)
  local fields = redis.call('HGETALL', key)
  for i = 1, longest and #fields <= 2 * most and #fields or 0, 2 do
    if #fields[i] + #fields[i + 1] > longest then
      note('key', key, 'bounds', 'a field longer than podrelay writes, deleted')
      redis.call('HDEL', key, fields[i])
      fields[i], fields[i + 1] = '', ''
    end
  end
  if #fields <= 2 * most then return fields end
  note('key', key, 'bounds', 'more fields than podrelay writes, deleted')
  redis.call('DEL', key)
  return {}
end

-- Quarantine a job.
local function quarantine(stream, job, kind, why)
  redis.call('XADD', stream, 'MAXLEN', '~', 10000, '*', 'job', string.sub(job, 1, 200), 'kind', kind, 'why', why)
end

-- The id of this life of the data. One that no process of podrelay wrote is replaced, which counts as a loss of the data.
local function read_epoch(key, fresh)
  redis.call('SET', key, fresh, 'NX')
  local epoch = redis.call('GET', key)
  if epoch and #epoch <= 64 and string.match(epoch, '^[%w-]+$') then return epoch end
  redis.call('SET', key, fresh)
  return fresh
end

-- The number in a field, as near to it as these bounds allow.
local function within(text, least, most) return math.max(least, math.min(most, number_of(text))) end

-- The longest pause that a launcher writes, for a cluster and for a namespace (launcher/error_policy.py, with a margin).
local PAUSE_MOST_S, QUOTA_PAUSE_MOST_S = 600, 60
-- The longest lease that can be configured, and the longest wait that a launcher gives to one launch.
local LEASE_MOST_S, WAIT_MOST_S = 600, 600
-- Fields of the throttle and of the fair queues, members of rq:queues; announced processes.
local FIELDS_MOST, PROCESSES_MOST = 10000, 2000

-- Why a job waits, as RQ's metadata of a job: rq-dashboard shows it.
local function meta_of_wait(reason, message)
  return string.format('{"waits_for": %s, "message": %s}', cjson.encode(reason), cjson.encode(message))
end

-- An RQ job, queued, as rq-dashboard shows it. `kind` is launch or cleanup, `now` is RQ's text.
local function write_job(key, kind, queue, data, description, now, result_ttl, failure_ttl, retries_left)
  redis.call('HSET', key, 'created_at', now, 'enqueued_at', now, 'data', data, 'description', description,
    'origin', queue, 'status', 'queued', 'timeout', '180', 'result_ttl', result_ttl, 'failure_ttl', failure_ttl,
    'retries_left', retries_left, 'kind_of', kind, 'worker_name', '', 'started_at', '', 'ended_at', '',
    'last_heartbeat', '')
end

-- A pod of the pool in `warm_pods`: shape, mailbox, when it was added (s), name, and where its sealed record begins; nil for
-- anything that warm_pool.lua does not write there under this id.
local function parse_warm_pod(id, value)
  if not value or #value > VALUE_MAX or #id ~= 32 then return nil end
  local shape, mailbox, added, name, record_at = string.match(value, '^(%x+) (%x+) ([%d.]+) ([%l%d-]+) ()[%w_=-]')
  if not shape or #shape ~= 16 or #mailbox ~= 32 or #name > 63 or string.sub(name, -38) ~= '-warm-' .. id then return nil end
  return { shape = shape, mailbox = mailbox, added = number_of(added), name = name, record_at = record_at }
end

-- Is this the name of a warm pod (identifiers.py)?
local function is_warm_pod(name)
  local id = string.match(name, '^[%l%d-]+%-warm%-(%x+)$')
  return id ~= nil and #id == 32
end

-- The attempt that has this pod, by its name, or by what the ledger holds of a warm pod; nil if neither says so.
local function attempt_of_pod(launch, pod, warm_attempt)
  if is_warm_pod(pod) then return tonumber(string.match(warm_attempt or '', '^%d+$')) end
  local beginning, attempt = string.match(pod, '^(.*)%-(%d+)$')
  local id = '-' .. string.lower(string.gsub(launch, '-', ''))
  return beginning and string.sub(beginning, -#id) == id and tonumber(attempt) or nil
end

-- What keeps a launcher from going on with a launch and its warm pod, nil if nothing does: lost (it does not hold the job any
-- more, Redis lost the launch, or the job was offered again meanwhile), over (the attempt has ended), unwanted (the launch is
-- withdrawn or superseded), exists (the attempt has a pod on record).
-- `entry` is what read_ledger returns for state and subject. The lease alone proves nothing: Redis may have lost the job, and
-- another launcher claimed it again. (A launcher of an earlier release notes no lease.)
local function fence_launch(ledger, entry, launch, attempt, leases, lease, current)
  local state, claimed = entry[2], read_ledger(ledger, 'lease')[2]
  if not redis.call('ZSCORE', leases, lease) or entry[1] ~= attempt then return 'lost' end
  if claimed and claimed ~= lease then return 'lost' end
  if state == 'finished' or state == 'acknowledged' then return 'over' end
  if state == 'withdrawn' then return 'unwanted' end
  if state ~= 'claimed' and state ~= 'created' and state ~= 'started' then return 'lost' end
  if redis.call('HGET', current, entry[3] or '') ~= launch then return 'unwanted' end
  if state ~= 'claimed' then return 'exists' end
end

-- This pod was the launch's, and will never get its workload: another one is created as usual.
local function condemn(ledger, pod)
  redis.call('HSET', ledger, 'condemned', pod, 'start', 'timed_out')
  redis.call('HDEL', ledger, 'warm_pod', 'warm_id', 'delivered', 't_started')
end

-- The longest time for which the pool of a shape is switched off.
local POOL_OFF_MOST_S = 3600
-- What `warm_state` holds of a shape, as `<shape> <figure>`.
local WARM_FIGURES = { 'idle', 'starting', 'hits', 'misses', 'off_until', 'off_why', 'ready_s', 'seen' }
-- What the ledger holds of an attempt's warm pod.
local WARM_FIELDS = { 'warm_pod', 'warm_id', 'warm_record', 'delivered', 'condemned', 'start', 'warm_attempt' }
local is_warm_field = {}
for _, name in ipairs(WARM_FIELDS) do is_warm_field[name] = true end

-- read_ledger without what the entry holds of the warm pod of an earlier attempt: a scheduler of an earlier release leaves it.
local function read_warm_ledger(key, ...)
  local entry = read_ledger(key, 'warm_attempt', ...)
  local stale = table.remove(entry, 2) ~= entry[1]
  for i, name in ipairs(stale and { ... } or {}) do
    if is_warm_field[name] then entry[i + 1] = false end
  end
  return entry
end
