-- Read fields of the rollups without what is too long. A key of another type is deleted, and counts as empty.
-- Runs behind prelude.lua.
--
-- KEYS: 1 rollups:<cluster>
-- ARGV: 1 the longest value that is read  2.. fields
-- Returns the value of each field, empty if there is none.
run_when_full(KEYS[1])
local values = {}
for i = 2, #ARGV do
  local length = redis.call('HSTRLEN', KEYS[1], ARGV[i])
  values[i - 1] = length > 0 and length <= tonumber(ARGV[1]) and redis.call('HGET', KEYS[1], ARGV[i]) or ''
end
return values
