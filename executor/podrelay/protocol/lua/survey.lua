-- Compare what an executor believes with the ledger: answers only for launches that need attention.
--
-- KEYS: 1 epoch
-- ARGV: 1 launch prefix  2 rq:job prefix  3 a fresh epoch, used if there is none  then per launch: launch id, attempt
-- Returns epoch, then flat: launch id, what, attempt, sealed result, relaunches so far. What is one of
--   missing (no ledger entry) | lost (waits in the ledger, but its RQ job is gone) | finished | withdrawn | ahead (a later attempt)
-- A key that is no hash, or an attempt that is no number, is not of our making: as if it were not there.
local function forged(held, attempt)
  return held.err or (attempt and (#attempt > 9 or not string.match(attempt, '^%d+$')))
end

redis.call('SET', KEYS[1], ARGV[3], 'NX')
local answer = { redis.call('GET', KEYS[1]) }
local function tell(launch, what, attempt, result, relaunches)
  answer[#answer + 1] = launch; answer[#answer + 1] = what
  answer[#answer + 1] = attempt or ''; answer[#answer + 1] = result or ''
  answer[#answer + 1] = relaunches or '0'
end
for i = 4, #ARGV, 2 do
  local launch, attempt = ARGV[i], tonumber(ARGV[i + 1])
  local held = redis.pcall('HMGET', ARGV[1] .. launch, 'state', 'attempt', 'result', 'relaunches')
  if forged(held, held[2]) then redis.call('DEL', ARGV[1] .. launch); held = {} end
  local state, known = held[1], tonumber(held[2] or -1)
  if not state or not held[2] then
    if state == 'withdrawn' then tell(launch, 'withdrawn') else tell(launch, 'missing') end
  elseif known > attempt then tell(launch, 'ahead', held[2], held[3], held[4])
  elseif known < attempt then tell(launch, 'missing')
  elseif state == 'finished' or state == 'acknowledged' then tell(launch, 'finished', held[2], held[3])
  elseif state == 'withdrawn' then tell(launch, 'withdrawn', held[2], held[3])
  elseif state == 'offered' or state == 'waiting' or state == 'claimed' then
    local status = redis.call('HGET', ARGV[2] .. launch .. '_' .. held[2], 'status')
    if status ~= 'queued' and status ~= 'started' and status ~= 'scheduled' and status ~= 'deferred' then
      tell(launch, 'lost', held[2])
    end
  end
end
return answer
