-- Some of the launches of a cluster that should have a pod; those that are over leave the set in the same step, so that
-- nobody else has to take them out and none that lives again can be lost.
--
-- KEYS: 1 live:<cluster>
-- ARGV: 1 launch prefix  2 cursor  3 about how many at once  4 only those created before this time (s)
-- Returns the next cursor ('0': that was all), then flat: launch id, attempt, namespace, pod, uid.
local found = redis.call('ZSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local answer, before = { found[1] }, tonumber(ARGV[4])
for i = 1, #found[2], 2 do
  local launch = found[2][i]
  local ledger = ARGV[1] .. launch
  local held = redis.pcall('HMGET', ledger, 'state', 'attempt', 'namespace', 'pod', 'uid')
  if held.err then held = {} end  -- a key of another type than ours
  if held[1] ~= 'created' and held[1] ~= 'started' then
    redis.call('ZREM', KEYS[1], launch)
  elseif tonumber(found[2][i + 1]) < before and held[2] and held[3] and held[4] then
    answer[#answer + 1] = launch
    for field = 2, 5 do answer[#answer + 1] = held[field] or '' end
  end
end
return answer
