-- Acquire, renew or give up the leadership among a cluster's watchers. Redis' clock counts: no two clocks are compared.
-- Runs behind prelude.lua.
--
-- KEYS: 1 watch:<cluster>  2 epoch
-- ARGV: 1 candidate  2 lease (s)  3 a fresh epoch, stored if there is none  4 'leave' or ''
--       5 the epoch that the candidate knows, '' for none  then fields and values to set if it leads
-- Returns 1 or 0 (the candidate leads or not), fence, leader, epoch.
-- A candidate that finds another epoch than it knows does not acquire leadership yet: the former leader may still hold
-- results that were lost with the data, and gets the first chance.
-- The fence grows with each change of leader. It never falls behind the clock (ms), so it also grows across a loss of data.
run_when_full(KEYS[1])
local now = redis_time()
local epoch, lease = read_epoch(KEYS[2], ARGV[3]), tonumber(ARGV[2])
local held = redis.call('HMGET', KEYS[1], 'leader', 'fence', 'expires')
local leader, fence, expires = held[1] or '', string.format('%.0f', number_of(held[2])), number_of(held[3])
if ARGV[4] == 'leave' then
  if leader == ARGV[1] then redis.call('HSET', KEYS[1], 'leader', '', 'expires', '0') end
  return { 0, fence, '', epoch }
end
if leader ~= ARGV[1] then
  if leader ~= '' and expires > now and expires - now <= LEASE_MOST_S then
    -- A lease that ends later than the candidate's own would was hardly written by a watcher: a leader renews it in time.
    if expires - now > lease + 0.1 then
      note('key', KEYS[1], 'bounds', 'a lease longer than that of another watcher, shortened')
      redis.call('HSET', KEYS[1], 'expires', string.format('%.3f', now + lease))
    end
    return { 0, fence, string.sub(leader, 1, 300), epoch }
  end
  if ARGV[5] ~= '' and ARGV[5] ~= epoch then return { 0, fence, '', epoch } end
  fence = string.format('%.0f', math.max(tonumber(fence) + 1, math.floor(now * 1000)))
end
redis.call('HSET', KEYS[1], 'leader', ARGV[1], 'fence', fence, 'expires', string.format('%.3f', now + lease))
if #ARGV > 5 then redis.call('HSET', KEYS[1], unpack(ARGV, 6)) end
return { 1, fence, ARGV[1], epoch }
