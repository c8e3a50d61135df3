-- Read the launch ids in a sorted set. Whatever else is there, of any length, is left out.
-- Runs behind prelude.lua.
--
-- KEYS: 1 quarantine
-- ARGV: 1 the sorted set  2 only below this score  3 approximate number  4 cursor of a scan, or '' = by score
--       5 by score: how many of the lowest to leave out
-- Returns the next cursor ('0' at the end, and by score), then launch ids.
-- By score, what is no launch id is removed: nothing else would, and it would always come first.
local reply = { '0' }
local function is_launch_id(text) return #text <= 63 and string.match(text, '^[%w-]+$') end
if ARGV[4] == '' then
  local left, left_out, length = tonumber(ARGV[3]), tonumber(ARGV[5]), 0
  -- Few at once, and no more after a mebibyte: reading what is long takes Redis some milliseconds, for nothing.
  while left > 0 and length < 1048576 do
    local found = redis.call('ZRANGEBYSCORE', ARGV[1], '-inf', '(' .. ARGV[2], 'LIMIT', left_out, math.min(left, 16))
    if #found == 0 then break end
    for _, id in ipairs(found) do
      length = length + #id
      if is_launch_id(id) then
        reply[#reply + 1], left_out = id, left_out + 1
      else
        redis.call('ZREM', ARGV[1], id)
      end
    end
    left = left - #found
  end
  return reply
end
local found = redis.call('ZSCAN', ARGV[1], ARGV[4], 'COUNT', ARGV[3])
reply[1] = found[1]
for i = 1, #found[2], 2 do
  if is_launch_id(found[2][i]) and number_of(found[2][i + 1]) < tonumber(ARGV[2]) then reply[#reply + 1] = found[2][i] end
end
return reply
