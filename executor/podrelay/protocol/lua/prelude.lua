-- Functions that several scripts share. `podrelay.store.script_table` puts them before each script that names this file.

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

-- Is this error about the data: a key of another type, or a text that is no number? Any other is a refusal by the server.
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
local function bounded(values, most)
  for i = 1, #values do
    if values[i] and #values[i] > (most or VALUE_MAX) then values[i] = false end
  end
  return values
end

-- Launch id and attempt of the RQ job of a launch; nil for any other id.
local function parse_job_id(id) return string.match(id, '^([%w-]+)_(%d+)$') end

-- May this be the id of an RQ job of ours? A user of Redis has rights to such jobs only. With any other id, which anybody may
-- have put into a list, the whole script would fail.
local function is_job_id(id) return string.find(id, '_', 1, true) ~= nil end

-- A ledger entry: its attempt, then the given fields. An entry that no script of podrelay wrote (a key of another type, or
-- an attempt that is no number) is deleted, and reads as absent; so does a value that is too long.
local function read_ledger(key, ...)
  local entry = redis.pcall('HMGET', key, 'attempt', ...)
  local attempt = entry[1]
  if entry.err or (attempt and (#attempt > 9 or not string.match(attempt, '^%d+$'))) then
    redis.call('DEL', key)
    return {}
  end
  for i, name in ipairs({ 'attempt', ... }) do
    if entry[i] and #entry[i] > (name == 'result' and RESULT_MAX or VALUE_MAX) then entry[i] = false end
  end
  return entry
end

-- The status of an RQ job; nil if there is none. A key of another type is deleted, and reads as absent.
local function read_status(key)
  local status = redis.pcall('HGET', key, 'status')
  if type(status) ~= 'table' then return status or nil end
  redis.call('DEL', key)
  return nil
end

-- The number in a field; 0 for any other text, and for one that is not even equal to itself.
local function number_of(text)
  local number = tonumber(text)
  return number == number and number or 0
end

-- The longest pause that a launcher writes (launcher/error_policy.py), and the longest lease that can be configured.
local PAUSE_MOST_S, LEASE_MOST_S = 600, 600

-- quarantine.lua does the same for Python.
local function quarantine(stream, job, kind, why)
  if redis.call('TYPE', stream).ok ~= 'stream' then redis.call('DEL', stream) end
  redis.call('XADD', stream, 'MAXLEN', '~', 10000, '*', 'job', string.sub(job, 1, 200), 'kind', kind, 'why', why)
end

-- An RQ job, queued, as rq-dashboard shows it. `kind` is launch or cleanup, `now` is RQ's text.
local function write_job(key, kind, queue, data, description, now, result_ttl, failure_ttl, retries_left)
  redis.call('HSET', key, 'created_at', now, 'enqueued_at', now, 'data', data, 'description', description,
    'origin', queue, 'status', 'queued', 'timeout', '180', 'result_ttl', result_ttl, 'failure_ttl', failure_ttl,
    'retries_left', retries_left, 'kind_of', kind, 'worker_name', '', 'started_at', '', 'ended_at', '',
    'last_heartbeat', '')
end

