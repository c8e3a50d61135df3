-- Announce which keys a process has, by their fingerprints, and read what the others announced.
-- Runs behind prelude.lua.
--
-- KEYS: 1 key_rings
-- ARGV: 1 process  2 its fingerprints, separated by commas, that of the encrypting key first
--       3 seconds after which an announcement is obsolete
-- Returns flat: process, fingerprints, for each process whose announcement is not obsolete.
run_when_full(KEYS[1])
local LENGTH_MOST = 2000  -- of a process and its fingerprints
local CLOCK_S = 60  -- by so much a former clock of Redis may have been ahead
local now, reply = redis_time(), {}
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. seconds(now))
redis.call('EXPIRE', KEYS[1], 3600)
local announced = read_all(KEYS[1], PROCESSES_MOST)  -- each process announces its keys again within seconds
for i = 1, #announced, 2 do
  if #announced[i] + #announced[i + 1] > LENGTH_MOST then announced[i + 1] = '' end
  local fingerprints, at = string.match(announced[i + 1], '^(%S+) (%S+)$')
  if number_of(at) > now - tonumber(ARGV[3]) and number_of(at) < now + CLOCK_S then
    reply[#reply + 1] = announced[i]; reply[#reply + 1] = fingerprints
  else
    redis.call('HDEL', KEYS[1], announced[i])
  end
end
return reply
