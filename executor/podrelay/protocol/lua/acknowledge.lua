-- The executor has taken a result (or wants a pod gone): only now is a clean-up job made (invariant I3).
--
-- KEYS: 1 current  2 rq:queues  3 unacknowledged
-- ARGV: 1 launch prefix  2 rq:job prefix  3 rq:queue prefix  4 wake channel  5 now (s)  6 now (RQ's text)
--       7 result ttl (s)  8 failure ttl (s)  9 retries left  10 clean-up queue  11 ledger ttl (s)
--       then 7 per launch: launch id, attempt, subject, over (1: the launch is over, 0: another attempt follows,
--       revoked: it is over unless it has ended: then its result says what becomes of its pod, and nothing is done),
--       job id ('' = nothing to clean up), data, description
-- A launch whose ledger already names a later attempt keeps its ledger; the clean-up of its old pod is made all the same.
-- Returns for each launch that is over now the seconds since its result was reported, as text.
-- A key that is no hash, or an attempt that is no number, is not of our making: as if it were not there.
local function forged(held, attempt)
  return held.err or (attempt and (#attempt > 9 or not string.match(attempt, '^%d+$')))
end

local pushed, waited = false, {}
for i = 12, #ARGV, 7 do
  local launch, attempt, subject, over = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3]
  local ledger = ARGV[1] .. launch
  local held = redis.pcall('HMGET', ledger, 'attempt', 'state', 't_reported')
  if forged(held, held[1]) then redis.call('DEL', ledger); held = {} end
  local void = over == 'revoked' and (held[2] == 'finished' or held[2] == 'acknowledged')
  if over == 'revoked' then over = void and '0' or '1' end
  if void then  -- left as it is
  elseif held[1] and tonumber(held[1]) == attempt then
    redis.call('ZREM', KEYS[3], launch)
    if over == '1' then
      local reported = tonumber(held[3] or '')
      if reported and held[2] == 'finished' then waited[#waited + 1] = tostring(tonumber(ARGV[5]) - reported) end
      redis.call('HSET', ledger, 'state', held[2] == 'withdrawn' and 'withdrawn' or 'acknowledged', 't_acknowledged', ARGV[5])
      redis.call('EXPIRE', ledger, ARGV[11])
    end
  elseif not held[1] then
    redis.call('ZREM', KEYS[3], launch)
  end
  if over == '1' and subject ~= '' and redis.call('HGET', KEYS[1], subject) == launch then
    redis.call('HDEL', KEYS[1], subject)
  end
  local job = ARGV[i + 4]
  if job ~= '' and not void and redis.call('EXISTS', ARGV[2] .. job) == 0 then
    redis.call('HSET', ARGV[2] .. job, 'created_at', ARGV[6], 'enqueued_at', ARGV[6], 'data', ARGV[i + 5],
      'description', ARGV[i + 6], 'origin', ARGV[10], 'status', 'queued', 'timeout', '180', 'result_ttl', ARGV[7],
      'failure_ttl', ARGV[8], 'retries_left', ARGV[9], 'kind_of', 'cleanup', 'worker_name', '', 'started_at', '',
      'ended_at', '', 'last_heartbeat', '')
    redis.call('RPUSH', ARGV[3] .. ARGV[10], job)
    pushed = true
  end
end
if pushed then
  redis.call('SADD', KEYS[2], ARGV[3] .. ARGV[10])
  redis.call('PUBLISH', ARGV[4], '1')
end
return waited
