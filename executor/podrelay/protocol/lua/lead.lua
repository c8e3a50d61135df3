-- Take or renew the lead of a cluster's watchers, or leave it. Time is Redis' own: no two clocks are compared.
--
-- KEYS: 1 watch:<cluster>  2 epoch
-- ARGV: 1 my id  2 lease (s)  3 a fresh epoch, used if there is none  4 'leave' or ''  5 the epoch I knew, '' for none
--       then fields and values to set if I lead
-- Returns 1 or 0 (I lead or not), fence, leader, epoch.
-- Who finds another epoch than the one it knew does not take the lead yet: the former leader may still hold results
-- that the data loss took away, and goes first.
-- The fence grows with each change of leader, also after Redis lost its data: it never falls behind the clock (ms).
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
redis.call('SET', KEYS[2], ARGV[3], 'NX')
local epoch = redis.call('GET', KEYS[2])
local held = redis.call('HMGET', KEYS[1], 'leader', 'fence', 'expires')
local leader, fence, expires = held[1] or '', held[2] or '0', tonumber(held[3] or 0)
if ARGV[4] == 'leave' then
  if leader == ARGV[1] then redis.call('HSET', KEYS[1], 'leader', '', 'expires', '0') end
  return { 0, fence, '', epoch }
end
if leader ~= ARGV[1] then
  if leader ~= '' and expires > now then return { 0, fence, leader, epoch } end
  if ARGV[5] ~= '' and ARGV[5] ~= epoch then return { 0, fence, '', epoch } end
  fence = string.format('%.0f', math.max(tonumber(fence) + 1, math.floor(now * 1000)))
end
redis.call('HSET', KEYS[1], 'leader', ARGV[1], 'fence', fence, 'expires', string.format('%.3f', now + tonumber(ARGV[2])))
if #ARGV > 5 then redis.call('HSET', KEYS[1], unpack(ARGV, 6)) end
return { 1, fence, ARGV[1], epoch }
