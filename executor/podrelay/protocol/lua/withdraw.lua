-- A launch is no longer wanted (revoked, cleared, superseded): whatever has not become a pod never will.
--
-- KEYS: 1 launch:<id>  2 current  3 unacknowledged
-- ARGV: 1 launch id  2 subject  3 rq:job prefix  4 rq:scheduled prefix  5 now (s)  6 ledger ttl (s)
-- The tombstone is written even where nothing is known, so that a launch that comes late is refused too.
-- The id stays in its RQ list (removing it from the middle of a long list is slow); claims skip ids without a job.
-- One whose pod waits counts as unacknowledged until somebody has ordered that pod's deletion: whoever withdrew it may die.
-- Returns state before, attempt, pod, namespace, uid, started.
local held = redis.pcall('HMGET', KEYS[1], 'state', 'attempt', 'pod', 'namespace', 'uid', 'started', 'queue')
-- A key that is no hash, or an attempt that is no number, is not of our making: as if it were not there.
if held.err or (held[2] and (#held[2] > 9 or not string.match(held[2], '^%d+$'))) then
  redis.call('DEL', KEYS[1])
  held = {}
end
if redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[1] then redis.call('HDEL', KEYS[2], ARGV[2]) end
if held[1] ~= 'finished' and held[1] ~= 'acknowledged' then
  redis.call('HSET', KEYS[1], 'state', 'withdrawn', 'subject', ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[6])
  if held[3] and held[6] ~= '1' then redis.call('ZADD', KEYS[3], 'NX', ARGV[5], ARGV[1]) end
end
if held[2] and (held[1] == 'offered' or held[1] == 'waiting') then
  local job = ARGV[1] .. '_' .. held[2]
  redis.call('DEL', ARGV[3] .. job)
  if held[7] then redis.call('ZREM', ARGV[4] .. held[7], job) end
end
local answer = {}
for i = 1, 6 do answer[i] = held[i] or '' end
return answer
