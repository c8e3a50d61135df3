-- Acknowledge results, or order the deletion of pods: only here are clean-up jobs created (invariant I3, docs/architecture.md).
-- Runs behind prelude.lua.
--
-- KEYS: 1 current  2 rq:queues  3 unacknowledged
-- ARGV: 1 launch prefix  2 rq:job prefix  3 rq:queue prefix  4 wake channel  5 now (s)  6 now (RQ's text)
--       7 result ttl (s)  8 failure ttl (s)  9 retries left  10 clean-up queue  11 ledger ttl (s)
--       then 7 per launch: launch id, attempt, subject, over, job id ('' = no clean-up), data, description
--       over is 1: the launch is over; 0: another attempt follows; revoked: the launch is over unless it has ended already,
--       in which case its result decides about its pod and nothing is done here
-- Returns for each launch that is now over the seconds since its result was published, as text.
-- A launch whose ledger names a later attempt keeps its entry and `current`; the clean-up of the older pod is created all the same.
run_when_full(KEYS[1])
local launch_prefix, job_prefix, now, cleanup_queue = ARGV[1], ARGV[2], ARGV[5], ARGV[10]
local cleanup_list = ARGV[3] .. cleanup_queue

local queued, waited = false, {}
for i = 12, #ARGV, 7 do
  local launch, attempt, subject, over, job = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local ledger = launch_prefix .. launch
  local entry = read_ledger(ledger, 'state', 't_reported')
  local state = entry[2]
  local ended = over == 'revoked' and (state == 'finished' or state == 'acknowledged')
  if over == 'revoked' then over = ended and '0' or '1' end
  if ended then  -- its result decides
  elseif entry[1] and tonumber(entry[1]) == attempt then
    redis.call('ZREM', KEYS[3], launch)
    if over == '1' then
      local reported = number_of(entry[3])
      if reported > 0 and state == 'finished' then waited[#waited + 1] = seconds(tonumber(now) - reported) end
      redis.call('HSET', ledger, 'state', state == 'withdrawn' and 'withdrawn' or 'acknowledged', 't_acknowledged', now)
      redis.call('EXPIRE', ledger, ARGV[11])
    end
  elseif not entry[1] then
    redis.call('ZREM', KEYS[3], launch)
  end
  local is_later = tonumber(entry[1] or -1) > attempt
  if over == '1' and not is_later and subject ~= '' and redis.call('HGET', KEYS[1], subject) == launch then
    redis.call('HDEL', KEYS[1], subject)
  end
  if job ~= '' and not ended and redis.call('EXISTS', job_prefix .. job) == 0 then
    redis.call('RPUSH', cleanup_list, job)
    -- After the list: if Redis refuses a write, the order is not taken for one that is in its list.
    write_job(job_prefix .. job, 'cleanup', cleanup_queue, ARGV[i + 5], ARGV[i + 6], ARGV[6], ARGV[7], ARGV[8], ARGV[9])
    queued = true
  end
end
if queued then
  redis.call('SADD', KEYS[2], cleanup_list)
  redis.call('PUBLISH', ARGV[4], 'cleanup')
end
return waited
