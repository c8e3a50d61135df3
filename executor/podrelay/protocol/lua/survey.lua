-- Compare an executor's launches with the ledger, and return those that need attention.
-- Runs behind prelude.lua.
--
-- KEYS: 1 epoch  2 quarantine  3 unacknowledged  4 current
-- ARGV: 1 launch prefix  2 rq:job prefix  3 a fresh epoch, stored if there is none  4 rq:queue prefix  5 rq:scheduled prefix
--       6 rq:wip prefix  then per launch: launch id, attempt
-- Returns the epoch, then flat: launch id, what, attempt, encrypted report, relaunches so far. What is one of
--   missing (no ledger entry) | lost (waits in the ledger, but its RQ job is gone, or in no list of jobs) | rejected (a launcher
--   could not read its job) | unreadable (it waits for a launcher that has the key) | unknown_format (it waits for a launcher that
--   reads its format) | finished | withdrawn | ahead (a later attempt)
-- Anybody may have written one field of an entry. Where the others deny its state or attempt, they count, or a launch that
-- waits would be dropped from its queue for good, and the end of a pod would not count for a later attempt.
run_when_full(KEYS[1])
local reply = { read_epoch(KEYS[1], ARGV[3]) }
-- Read by commands outside of scripts, and by launchers that may not write it: neither mends anything.
redis.call('ZCARD', KEYS[3])
redis.call('HGET', KEYS[4], '')
local function add(launch, what, attempt, result, relaunches)
  reply[#reply + 1] = launch; reply[#reply + 1] = what
  reply[#reply + 1] = attempt or ''; reply[#reply + 1] = result or ''
  reply[#reply + 1] = relaunches or '0'
end
-- Other processes make an attempt or two; each of many could need a pod of its own.
local ATTEMPTS_AHEAD_MOST = 1000
-- Is the job where its status says? In a list or a set of leases as far as that can be known without a search through all of it.
local function is_in_place(job, status, queue, owner)
  if status == 'scheduled' then
    local due = redis.call('ZSCORE', ARGV[5] .. queue, job)
    return due and number_of(due) > 0 and number_of(due) <= redis_time() + WAIT_MOST_S
  elseif status == 'started' then
    return redis.call('EXISTS', ARGV[6] .. queue) == 1
  end
  return redis.call('EXISTS', ARGV[4] .. queue, ARGV[4] .. queue .. '.by-' .. owner) > 0 or not string.match(owner, '^[%w_-]+$')
end
local function mend_entry(launch, field, value, why)
  redis.call('HSET', ARGV[1] .. launch, field, value)
  note('launch', launch, 'malformed', why)
  return value
end
local function is_possible(state, pod)
  if state == 'created' or state == 'started' then return pod end
  return waits_for_pod(state) or state == 'finished' or state == 'acknowledged' or state == 'withdrawn'
end
-- The ledger may name any queue: one that the user may not access is none of ours.
local function is_in_our_place(...)
  local allowed, found = pcall(is_in_place, ...)
  return allowed and found
end
for i = 7, #ARGV, 2 do
  local launch, attempt = ARGV[i], tonumber(ARGV[i + 1])
  local entry = read_ledger(ARGV[1] .. launch, 'state', 'result', 'relaunches', 'reason', 'pod', 'queue', 'owner',
    'warm_attempt', 'outcome')
  local known, state, result, pod, outcome = entry[1], entry[2], entry[3], entry[6], entry[10]
  local has_end = result and (outcome == 'succeeded' or outcome == 'failed' or outcome == 'expired')
  if known and state and not is_possible(state, pod) then
    local shown = has_end and 'finished' or pod and 'created' or 'offered'
    state = mend_entry(launch, 'state', shown, 'a ledger entry with a state that its other fields deny')
  end
  if known and tonumber(known) > attempt and pod and not waits_for_pod(state) then
    local of_pod = attempt_of_pod(launch, pod, entry[9])
    if of_pod and of_pod < tonumber(known) then
      known = mend_entry(launch, 'attempt', tostring(of_pod), 'a ledger entry with another attempt than that of its pod')
    end
  end
  if known and tonumber(known) > attempt + ATTEMPTS_AHEAD_MOST then
    note('launch', launch, 'bounds', 'a ledger entry far ahead of its scheduler, deleted')
    redis.call('DEL', ARGV[1] .. launch)
    known, state = nil, nil
  end
  if not state or not known then
    if state == 'withdrawn' then add(launch, 'withdrawn') else add(launch, 'missing') end
  elseif tonumber(known) > attempt then add(launch, 'ahead', known, result, entry[4])
  elseif tonumber(known) < attempt then add(launch, 'missing')
  elseif (state == 'finished' or state == 'acknowledged') and not has_end then
    -- Every script writes an end with its outcome and report; without them, the next report is to count.
    redis.call('HSET', ARGV[1] .. launch, 'state', pod and 'created' or 'offered')
    quarantine(KEYS[2], launch, 'no_report', 'the ledger names an end without a report')
  elseif state == 'finished' or state == 'acknowledged' then add(launch, 'finished', known, result)
  elseif state == 'withdrawn' then add(launch, 'withdrawn', known, result)
  elseif waits_for_pod(state) then
    local job = launch .. '_' .. known
    local status = read_status(ARGV[2] .. job)
    if status == 'failed' then add(launch, 'rejected', known)
    elseif status ~= 'queued' and status ~= 'started' and status ~= 'scheduled' then
      add(launch, 'lost', known)
    elseif not is_in_our_place(job, status, entry[7] or '', entry[8] or '') then
      redis.call('DEL', ARGV[2] .. job)  -- or the next offer would take it for one that waits
      add(launch, 'lost', known)
    elseif state == 'waiting' and entry[5] == 'KeyMismatch' then add(launch, 'unreadable', known)
    elseif state == 'waiting' and entry[5] == 'UnknownFormat' then add(launch, 'unknown_format', known)
    end
  end
end
return reply
