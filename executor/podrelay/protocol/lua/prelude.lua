-- Functions that several scripts share. `podrelay.store.script_table` puts them before each script that names this file.

-- Seconds since the epoch by Redis' clock.
local function redis_time()
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local function seconds(value) return string.format('%.6f', value) end

-- Launch id and attempt of the RQ job of a launch; nil for any other id.
local function parse_job_id(id) return string.match(id, '^([%w-]+)_(%d+)$') end

-- A ledger entry: its attempt, then the given fields. An entry that no script of podrelay wrote (a key of another type, or
-- an attempt that is no number) is deleted, and reads as absent.
local function read_ledger(key, ...)
  local entry = redis.pcall('HMGET', key, 'attempt', ...)
  local attempt = entry[1]
  if entry.err or (attempt and (#attempt > 9 or not string.match(attempt, '^%d+$'))) then
    redis.call('DEL', key)
    return {}
  end
  return entry
end

-- podrelay.store.quarantine does the same for Python.
local function quarantine(stream, job, why)
  redis.call('XADD', stream, 'MAXLEN', '~', 10000, '*', 'job', job, 'why', why)
end

-- An RQ job, queued, as rq-dashboard shows it. `kind` is launch or cleanup, `now` is RQ's text.
local function write_job(key, kind, queue, data, description, now, result_ttl, failure_ttl, retries_left)
  redis.call('HSET', key, 'created_at', now, 'enqueued_at', now, 'data', data, 'description', description,
    'origin', queue, 'status', 'queued', 'timeout', '180', 'result_ttl', result_ttl, 'failure_ttl', failure_ttl,
    'retries_left', retries_left, 'kind_of', kind, 'worker_name', '', 'started_at', '', 'ended_at', '',
    'last_heartbeat', '')
end

