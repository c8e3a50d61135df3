-- Renew leases, and find the launches that are no longer wanted.
-- Runs behind prelude.lua.
--
-- KEYS: 1 quarantine
-- ARGV: 1 lease (s)  2 launch prefix  3 rq:wip prefix  4 current
--       then 4 per job: job id, execution id, queue, launch | cleanup
-- Returns one number per job: 1 held, 0 lost to another launcher, -1 held but superseded or withdrawn.
run_when_full(KEYS[1])
local expires = seconds(redis_time() + tonumber(ARGV[1]))
local answers = {}

-- Does the fence name this launch? A launcher may not mend a fence of another type: until a scheduler does, it says nothing.
local function is_current(subject, launch)
  local succeeded, found = pcall(redis.call, 'HGET', ARGV[4], subject)
  if succeeded then return found == launch end
  return is_data_fault(error_text(found)) or error(found, 0)
end

local function wanted(id)
  local launch, attempt = parse_job_id(id)
  if not launch then return false end
  local entry = read_ledger(ARGV[2] .. launch, 'state', 'subject')
  return entry[2] and entry[2] ~= 'withdrawn' and entry[2] ~= 'acknowledged' and entry[1] == attempt
    and is_current(entry[3] or '', launch)
end

for i = 5, #ARGV, 4 do
  local leases, member = ARGV[3] .. ARGV[i + 2], ARGV[i] .. ':' .. ARGV[i + 1]
  local answer = 0
  if redis.call('ZSCORE', leases, member) then
    redis.call('ZADD', leases, 'XX', expires, member)
    answer = (ARGV[i + 3] ~= 'launch' or wanted(ARGV[i])) and 1 or -1
  end
  answers[#answers + 1] = answer
end
return answers
