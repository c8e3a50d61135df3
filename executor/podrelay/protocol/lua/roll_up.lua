-- Write rollups, and how far the results stream is counted in them, in one atomic step. Called by the leading watcher.
-- Runs behind prelude.lua.
--
-- KEYS: 1 rollups:<cluster>
-- ARGV: 1 leader id  2 its fence number  3 watch:<cluster>  4 the oldest bucket to keep  5 the most fields that there can be
--       6 the id of the last entry of the results stream that is counted  7.. fields and values
-- Returns the number of fields that are there now; -2 another watcher leads, nothing written.
local term = redis.call('HMGET', ARGV[3], 'leader', 'fence')
if term[1] ~= ARGV[1] or term[2] ~= ARGV[2] then return -2 end
run_when_full(KEYS[1])
if redis.call('HLEN', KEYS[1]) > 2 * tonumber(ARGV[5]) then remove('more fields than podrelay writes, deleted', KEYS[1]) end
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if name ~= 'cursor' and number_of(name) < tonumber(ARGV[4]) then redis.call('HDEL', KEYS[1], name) end
end
redis.call('HSET', KEYS[1], 'cursor', unpack(ARGV, 6))
return redis.call('HLEN', KEYS[1])
