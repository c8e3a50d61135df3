-- Leases that ended: their launcher is dead or cut off. Each job goes to the front of its queue, once, whoever looks.
--
-- KEYS: 1 quarantine  2 rq:queues  3 fair_queues:<cluster>
-- ARGV: 1 worker  2 execution id  3 lease (s)  4 losses after which a job is taken for the cause  5 most per queue
--       6 launch prefix  7 rq:job prefix  8 rq:queue prefix  9 rq:wip prefix  10 wake channel
--       11 what follows a level's queue in the name of a fair queue  then the queues
-- Returns how many went back, and flat (job id, queue, data) the jobs that lost too many launchers: the caller holds them
-- now, publishes their failure and finishes them as failed.
-- It also finds fair queues again of which `fair_queues` has been lost, and nothing else (a Redis that evicts).
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local back, crashed = 0, {}
local function seconds(value) return string.format('%.6f', value) end

for i = 12, #ARGV do
  local queue = ARGV[i]
  local members = redis.call('ZRANGEBYSCORE', ARGV[9] .. queue, '-inf', seconds(now), 'LIMIT', 0, ARGV[5])
  for j = #members, 1, -1 do
    local id = string.match(members[j], '^([^:]*):')
    redis.call('ZREM', ARGV[9] .. queue, members[j])
    local hash = id and ARGV[7] .. id
    if id and redis.call('HGET', hash, 'status') == 'started' then
      if redis.call('HINCRBY', hash, 'losses', 1) > tonumber(ARGV[4]) then
        redis.call('XADD', KEYS[1], 'MAXLEN', '~', 10000, '*', 'job', id, 'why', 'every launcher that held it was lost')
        redis.call('ZADD', ARGV[9] .. queue, seconds(now + tonumber(ARGV[3])), id .. ':' .. ARGV[2])
        crashed[#crashed + 1] = id; crashed[#crashed + 1] = queue
        crashed[#crashed + 1] = redis.call('HGET', hash, 'data') or ''
      else
        redis.call('HSET', hash, 'status', 'queued', 'worker_name', '', 'started_at', '')
        redis.call('LPUSH', ARGV[8] .. queue, id)
        local launch, attempt = string.match(id, '^([%w-]+)_(%d+)$')
        local ledger = launch and ARGV[6] .. launch
        if launch then
          local entry = redis.call('HMGET', ledger, 'state', 'attempt')
          if entry[1] == 'claimed' and entry[2] == attempt then redis.call('HSET', ledger, 'state', 'offered') end
        end
        back = back + 1
      end
    end
  end
end
for _, key in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  for i = 12, string.find(key, ARGV[11], 1, true) and #ARGV or 0 do
    local beginning = ARGV[8] .. ARGV[i] .. ARGV[11]
    if string.sub(key, 1, #beginning) == beginning then
      redis.call('HSETNX', KEYS[3], string.sub(key, #ARGV[8] + 1), ARGV[i])
    end
  end
end
if back > 0 then redis.call('PUBLISH', ARGV[10], '1') end
return { back, crashed }
