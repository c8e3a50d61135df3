-- Ask the leading watcher for the last lines of logs, or take such requests.
-- Runs behind prelude.lua.
--
-- KEYS: 1 log_requests:<cluster>
-- ARGV: 1 how many to take, from the oldest  2 how many to keep  3 ttl (s)  4.. encrypted requests to add
-- Returns the requests taken, without those that are too long. A key of another type is deleted, and counts as empty.
run_when_full(KEYS[1])
local taken = {}
for _ = 1, tonumber(ARGV[1]) do
  local request = redis.call('LPOP', KEYS[1])
  if not request then break end
  if #request <= RESULT_MAX then taken[#taken + 1] = request end
end
if #ARGV > 3 then
  redis.call('RPUSH', KEYS[1], unpack(ARGV, 4))
  redis.call('LTRIM', KEYS[1], -tonumber(ARGV[2]), -1)
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
return taken
