-- Write an outcome to the ledger and append it to the results stream, in one atomic step, at most once per attempt.
-- Called by the watcher (fenced by its leadership) and by launchers (unfenced: they hold the job's lease).
--
-- KEYS: 1 launch:<id>  2 results  3 unacknowledged  4 watch:<cluster>
-- ARGV: 1 leader id, '' = no fence   2 its fence number   3 launch id   4 attempt   5 outcome   6 sealed result
--       7 now (s)   8 stream's greatest length   9.. ledger fields and values to set; t_wait? sets t_wait unless the ledger
--       already knows when this wait (field wait) began
-- Returns 1 appended; 0 already known, nothing written; -1 the attempt is superseded; -2 not the leader any more.
if ARGV[1] ~= '' then
  local lead = redis.call('HMGET', KEYS[4], 'leader', 'fence')
  if lead[1] ~= ARGV[1] or lead[2] ~= ARGV[2] then return -2 end
end
local attempt, outcome = tonumber(ARGV[4]), ARGV[5]
local held = redis.pcall('HMGET', KEYS[1], 'attempt', 'state', 'outcome', 'started', 'reason', 'message', 'wait')
-- A key that is no hash, or an attempt that is no number, is not of our making: as if it were not there.
if held.err or (held[1] and (#held[1] > 9 or not string.match(held[1], '^%d+$'))) then
  redis.call('DEL', KEYS[1])
  held = {}
end
local known = tonumber(held[1] or -1)
if known > attempt then return -1 end
local same = known == attempt
local terminal = outcome == 'succeeded' or outcome == 'failed' or outcome == 'expired'
if same and (held[2] == 'finished' or held[2] == 'acknowledged') then return 0 end
if same and held[2] == 'withdrawn' and not terminal then
  -- No news for anybody, but its pod must go: it was made, or told of, after the withdrawal.
  for i = 9, #ARGV, 2 do
    local name = ARGV[i]
    if name == 'pod' or name == 'namespace' or name == 'uid' then redis.call('HSET', KEYS[1], name, ARGV[i + 1]) end
  end
  -- Whether it hangs or waits decides how it is deleted.
  if outcome == 'started' then
    redis.call('HSET', KEYS[1], 'started', '1')
    redis.call('ZREM', KEYS[3], ARGV[3])
  elseif held[4] ~= '1' then
    redis.call('ZADD', KEYS[3], 'NX', ARGV[7], ARGV[3])
  end
  return 0
end
local fields = {}
local function set(name, value) fields[#fields + 1] = name; fields[#fields + 1] = value end
local waits_on = false
for i = 9, #ARGV, 2 do
  if ARGV[i] == 'wait' then waits_on = same and held[7] == ARGV[i + 1] end
  if ARGV[i] ~= 't_wait?' then set(ARGV[i], ARGV[i + 1])
  elseif not waits_on then set('t_wait', ARGV[i + 1]) end
end
if not same then
  redis.call('HDEL', KEYS[1], 'started', 'outcome', 'result', 'reason', 'message')
  set('attempt', ARGV[4])
end
if terminal then
  set('state', 'finished'); set('outcome', outcome); set('result', ARGV[6]); set('t_reported', ARGV[7])
  redis.call('ZADD', KEYS[3], ARGV[7], ARGV[3])
elseif outcome == 'started' then
  if same and held[4] == '1' then
    if #fields > 0 then redis.call('HSET', KEYS[1], unpack(fields)) end
    return 0
  end
  set('state', 'started'); set('started', '1')
end
if #fields > 0 then redis.call('HSET', KEYS[1], unpack(fields)) end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[8], '*',
  'launch', ARGV[3], 'attempt', ARGV[4], 'outcome', outcome, 'result', ARGV[6])
return 1
