-- Compare an executor's launches with the ledger, and return those that need attention.
-- Runs behind prelude.lua.
--
-- KEYS: 1 epoch  2 quarantine
-- ARGV: 1 launch prefix  2 rq:job prefix  3 a fresh epoch, stored if there is none  then per launch: launch id, attempt
-- Returns the epoch, then flat: launch id, what, attempt, encrypted report, relaunches so far. What is one of
--   missing (no ledger entry) | lost (waits in the ledger, but its RQ job is gone) | rejected (a launcher
--   could not read its job) | unreadable (it waits for a launcher that has the key) | finished | withdrawn | ahead (a later attempt)
run_when_full(KEYS[1])
redis.call('SET', KEYS[1], ARGV[3], 'NX')
local reply = { redis.call('GET', KEYS[1]) }
local function add(launch, what, attempt, result, relaunches)
  reply[#reply + 1] = launch; reply[#reply + 1] = what
  reply[#reply + 1] = attempt or ''; reply[#reply + 1] = result or ''
  reply[#reply + 1] = relaunches or '0'
end
for i = 4, #ARGV, 2 do
  local launch, attempt = ARGV[i], tonumber(ARGV[i + 1])
  local entry = read_ledger(ARGV[1] .. launch, 'state', 'result', 'relaunches', 'reason', 'pod')
  local known, state, result = entry[1], entry[2], entry[3]
  if not state or not known then
    if state == 'withdrawn' then add(launch, 'withdrawn') else add(launch, 'missing') end
  elseif tonumber(known) > attempt then add(launch, 'ahead', known, result, entry[4])
  elseif tonumber(known) < attempt then add(launch, 'missing')
  elseif (state == 'finished' or state == 'acknowledged') and not result then
    -- Every script writes an end with its report; without one, the next report is to count.
    redis.call('HSET', ARGV[1] .. launch, 'state', entry[6] and 'created' or 'offered')
    quarantine(KEYS[2], launch, 'no_report', 'the ledger names an end without a report')
  elseif state == 'finished' or state == 'acknowledged' then add(launch, 'finished', known, result)
  elseif state == 'withdrawn' then add(launch, 'withdrawn', known, result)
  elseif state == 'offered' or state == 'waiting' or state == 'claimed' then
    local status = read_status(ARGV[2] .. launch .. '_' .. known)
    if status == 'failed' then add(launch, 'rejected', known)
    elseif status ~= 'queued' and status ~= 'started' and status ~= 'scheduled' and status ~= 'deferred' then
      add(launch, 'lost', known)
    elseif state == 'waiting' and entry[5] == 'KeyMismatch' then add(launch, 'unreadable', known)
    end
  end
end
return reply
