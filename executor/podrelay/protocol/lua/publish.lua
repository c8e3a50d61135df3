-- Publish a report: ledger entry and results stream in one atomic step, at most once per attempt.
-- Called by the watcher, fenced by its term, and by launchers, unfenced: they hold the job's lease.
-- Runs behind prelude.lua.
--
-- KEYS: 1 launch:<id>  2 results  3 unacknowledged
-- ARGV: 1 leader id, '' = unfenced   2 its fence number   3 launch id   4 attempt   5 outcome   6 encrypted report
--       7 now (s)   8 maximum length of the stream   9 the report of a known end that is not genuine: it is replaced, '' = none
--       10 watch:<cluster>   11.. ledger fields and values to set; t_wait? sets t_wait unless the ledger already knows the
--       start of this wait (field wait); result_key is the fingerprint of the report's key
-- An end replaces a known one that has no report, or whose report was encrypted with another key or names none: schedulers may
-- not be able to read that.
-- An entry with first_run is the first that says that this attempt's container ran. The class of a failure is in the entry too:
-- the ledger has it only until another attempt follows.
-- A log tail (outcome log) follows an end that is not acknowledged yet; it changes nothing in the ledger.
-- What happens to a warm pod is about the launch once the workload is in its mailbox: a pod that ended before is condemned, and
-- of a condemned one no report counts while the attempt waits for its pod, or has the one of its own name. Any other pod in the
-- ledger is no reason to drop a report: anybody may have written it, and the end of the task's own pod must not be lost. That a
-- warm pod runs says nothing: the launcher reports the start, once the pod has its workload.
-- Returns 1 appended; 0 already known, nothing written; for an end where another is known, the report of that: the caller, who
-- has the keys, must find it genuine, or publish again and name it; -1 the attempt is superseded; -2 another watcher leads;
-- -3 whether this warm pod is the launch's is not known yet: publish again later (a launcher finds the pod by its labels, or
-- creates another).
if ARGV[1] ~= '' then
  local term = redis.call('HMGET', ARGV[10], 'leader', 'fence')
  if term[1] ~= ARGV[1] or term[2] ~= ARGV[2] then return -2 end
end
run_when_full(KEYS[1])
local attempt, outcome = tonumber(ARGV[4]), ARGV[5]
local entry = read_warm_ledger(KEYS[1], 'state', 'started', 'wait', 'result_key', 'result', 'pod', 'warm_pod', 'delivered',
  'condemned', 'start')
local known, state, started, wait = tonumber(entry[1] or -1), entry[2], entry[3] == '1', entry[4]
local terminal = outcome == 'succeeded' or outcome == 'failed' or outcome == 'expired'
local has_no_pod = waits_for_pod(state)
local result_key, pod
for i = 11, #ARGV, 2 do
  if ARGV[i] == 'result_key' then result_key = ARGV[i + 1] end
  if ARGV[i] == 'pod' then pod = ARGV[i + 1] end
end
if known > attempt then
  -- A later attempt has another pod, and is offered before that exists: somebody else wrote this one.
  if has_no_pod or not pod or entry[7] ~= pod then return -1 end
  note('launch', ARGV[3], 'malformed', 'a ledger entry with another attempt than that of its pod')
  redis.call('HSET', KEYS[1], 'attempt', ARGV[4])
  known = attempt
end
local same = known == attempt
if outcome == 'log' then
  if not same or state ~= 'finished' then return 0 end
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[8], '*',
    'launch', ARGV[3], 'attempt', ARGV[4], 'outcome', outcome, 'result', ARGV[6])
  return 1
end
if same and pod and is_warm_pod(pod) then
  local own_suffix = '-' .. string.lower(string.gsub(ARGV[3], '-', '')) .. '-' .. ARGV[4]
  if entry[10] == pod and (has_no_pod or string.sub(entry[7] or '', -#own_suffix) == own_suffix) then return 0 end
  if has_no_pod and entry[8] ~= pod then return -3 end
  if has_no_pod and terminal and entry[9] ~= '1' then
    condemn(KEYS[1], pod)
    return 0
  end
  if has_no_pod and not terminal and ARGV[1] ~= '' then return 0 end
end
local unreadable = not entry[6] or (result_key and entry[5] ~= result_key)
local replaces = terminal and (state == 'finished' and unreadable or state == 'acknowledged' and not entry[6]
  or ARGV[9] ~= '' and entry[6] == ARGV[9])
if same and (state == 'finished' or state == 'acknowledged') and not replaces then return terminal and entry[6] or 0 end
if same and state == 'withdrawn' and not terminal then
  -- No report for any scheduler, but the pod must be deleted: it was created, or seen, after the withdrawal.
  for i = 11, #ARGV, 2 do
    local name = ARGV[i]
    if name == 'pod' or name == 'namespace' or name == 'uid' then redis.call('HSET', KEYS[1], name, ARGV[i + 1]) end
  end
  -- Whether it runs or waits decides how it is deleted.
  if outcome == 'started' then
    redis.call('HSET', KEYS[1], 'started', '1')
    redis.call('ZREM', KEYS[3], ARGV[3])
  elseif not started then
    redis.call('ZADD', KEYS[3], 'NX', ARGV[7], ARGV[3])
  end
  return 0
end
local fields = {}
local function set(name, value) fields[#fields + 1] = name; fields[#fields + 1] = value end
local same_wait, ran, failure_class = false, outcome == 'started', nil
for i = 11, #ARGV, 2 do
  if ARGV[i] == 'wait' then same_wait = same and wait == ARGV[i + 1] end
  if ARGV[i] == 'started' then ran = ran or ARGV[i + 1] == '1' end
  if ARGV[i] == 'failure_class' then failure_class = ARGV[i + 1] end
  if ARGV[i] == 'result_key' and not terminal then  -- nothing to distinguish
  elseif ARGV[i] ~= 't_wait?' then set(ARGV[i], ARGV[i + 1])
  elseif not same_wait then set('t_wait', ARGV[i + 1]) end
end
if not same then
  redis.call('HDEL', KEYS[1], 'started', 'outcome', 'result', 'result_key', 'reason', 'message', 'failure_class', 'pod', 'uid',
    'node', unpack(WARM_FIELDS))
  set('attempt', ARGV[4])
end
if terminal then
  set('state', 'finished'); set('outcome', outcome); set('result', ARGV[6]); set('t_reported', ARGV[7])
  redis.call('ZADD', KEYS[3], ARGV[7], ARGV[3])
elseif outcome == 'started' then
  if same and started then
    if #fields > 0 then redis.call('HSET', KEYS[1], unpack(fields)) end
    return 0
  end
  set('state', 'started'); set('started', '1')
end
if #fields > 0 then redis.call('HSET', KEYS[1], unpack(fields)) end
local report = { 'launch', ARGV[3], 'attempt', ARGV[4], 'outcome', outcome, 'result', ARGV[6] }
local function add(name, value) report[#report + 1] = name; report[#report + 1] = value end
local first_run = ran and not (same and started)
if first_run then add('first_run', '1') end
if failure_class then add('failure_class', failure_class) end
if same and entry[11] and (first_run or terminal) then add('start', entry[11]) end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[8], '*', unpack(report))
return 1
