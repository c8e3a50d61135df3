-- Announce a scheduler, for `status`: how many reports it has not read yet, how many launches it has, its version.
-- Runs behind prelude.lua.
--
-- KEYS: 1 schedulers
-- ARGV: 1 its field: cluster and job id  2 its cursor, '' for none  3 number of its launches, and its version  4 results
-- Returns the number of unread reports: at least so many.
run_when_full(KEYS[1])
local FORGOTTEN_S = 120  -- a scheduler that was killed is shown for a while
local CLOCK_S = 60  -- by so much a former clock of Redis may have been ahead
local LENGTH_MOST = 1000  -- of a scheduler and its announcement
local UNREAD_MOST, BYTES_MOST = 1000, 1048576  -- a count takes Redis some milliseconds at most
local LAST_ID = '18446744073709551615-18446744073709551615'  -- nothing can follow it
local now, position, unread, bytes = redis_time(), ARGV[2], 0, 0
while position ~= '' and position ~= LAST_ID and unread < UNREAD_MOST and bytes < BYTES_MOST do
  local found = redis.call('XRANGE', ARGV[4], '(' .. position, '+', 'COUNT', 10)
  if #found == 0 then break end
  unread, position = unread + #found, found[#found][1]
  for _, entry in ipairs(found) do
    for _, value in ipairs(entry[2]) do bytes = bytes + #value end
  end
end
redis.call('HSET', KEYS[1], ARGV[1], seconds(now) .. ' ' .. unread .. ' ' .. ARGV[3])
redis.call('EXPIRE', KEYS[1], 3600)
local announced = read_all(KEYS[1], PROCESSES_MOST)  -- each scheduler announces itself again within seconds
for i = 1, #announced, 2 do
  local at = number_of(string.match(string.sub(announced[i + 1], 1, 100), '^(%S+) '))
  local is_long = #announced[i] + #announced[i + 1] > LENGTH_MOST
  if is_long or at < now - FORGOTTEN_S or at > now + CLOCK_S then redis.call('HDEL', KEYS[1], announced[i]) end
end
return unread
