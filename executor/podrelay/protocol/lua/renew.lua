-- Prolong leases, and say which launches need not be made any more.
--
-- KEYS: 1 current
-- ARGV: 1 lease (s)  2 launch prefix  3 rq:wip prefix  then 4 per job: job id, execution id, queue, launch | cleanup
-- Returns one number per job: 1 held, 0 lost to another launcher, -1 held but superseded or withdrawn.
local time = redis.call('TIME')
local until_ = string.format('%.6f', tonumber(time[1]) + tonumber(time[2]) / 1e6 + tonumber(ARGV[1]))
local answers = {}

local function wanted(id)
  local launch, attempt = string.match(id, '^([%w-]+)_(%d+)$')
  if not launch then return false end
  local entry = redis.call('HMGET', ARGV[2] .. launch, 'state', 'attempt', 'subject')
  return entry[1] and entry[1] ~= 'withdrawn' and entry[1] ~= 'acknowledged' and entry[2] == attempt
    and redis.call('HGET', KEYS[1], entry[3] or '') == launch
end

for i = 4, #ARGV, 4 do
  local key, member = ARGV[3] .. ARGV[i + 2], ARGV[i] .. ':' .. ARGV[i + 1]
  local answer = 0
  if redis.call('ZSCORE', key, member) then
    redis.call('ZADD', key, 'XX', until_, member)
    answer = (ARGV[i + 3] ~= 'launch' or wanted(ARGV[i])) and 1 or -1
  end
  answers[#answers + 1] = answer
end
return answers
