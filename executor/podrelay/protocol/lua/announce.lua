-- Announce which keys a process has, by their fingerprints, and read what the others announced.
-- Runs behind prelude.lua.
--
-- KEYS: 1 key_rings
-- ARGV: 1 process  2 its fingerprints, separated by commas, that of the encrypting key first
--       3 seconds after which an announcement is obsolete
-- Returns flat: process, fingerprints, for each process whose announcement is not obsolete.
run_when_full(KEYS[1])
local now, reply = redis_time(), {}
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. seconds(now))
redis.call('EXPIRE', KEYS[1], 3600)
local announced = redis.call('HGETALL', KEYS[1])
for i = 1, #announced, 2 do
  if #announced[i] + #announced[i + 1] > VALUE_MAX then announced[i + 1] = '' end
  local fingerprints, at = string.match(announced[i + 1], '^(%S+) (%S+)$')
  if tonumber(at or 0) and tonumber(at or 0) > now - tonumber(ARGV[3]) then
    reply[#reply + 1] = announced[i]; reply[#reply + 1] = fingerprints
  else
    redis.call('HDEL', KEYS[1], announced[i])
  end
end
return reply
