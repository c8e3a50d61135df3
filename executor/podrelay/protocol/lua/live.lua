-- Read some of a cluster's launches that should have a pod. Launches without a live pod leave the set in the same step, so
-- that no launch offered again meanwhile is lost.
-- Runs behind prelude.lua.
--
-- KEYS: 1 live:<cluster>
-- ARGV: 1 launch prefix  2 cursor  3 approximate number of launches  4 only those created before this time (s)
-- Returns the next cursor ('0' at the end), then flat: launch id, attempt, namespace, pod, uid.
local found = redis.call('ZSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local reply, before = { found[1] }, tonumber(ARGV[4])
for i = 1, #found[2], 2 do
  local launch = found[2][i]
  local ledger = ARGV[1] .. launch
  local entry = read_ledger(ledger, 'state', 'namespace', 'pod', 'uid')
  if entry[2] ~= 'created' and entry[2] ~= 'started' then
    redis.call('ZREM', KEYS[1], launch)
  elseif number_of(found[2][i + 1]) < before and entry[1] and entry[3] and entry[4] then
    reply[#reply + 1] = launch
    for _, field in ipairs({ 1, 3, 4, 5 }) do reply[#reply + 1] = entry[field] or '' end
  end
end
return reply
