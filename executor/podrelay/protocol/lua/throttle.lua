-- Share what an answer of the API server means for all launchers of a cluster.
-- Runs behind prelude.lua.
--
-- KEYS: 1 throttle:<cluster>
-- ARGV: 1 wake channel  2 event  3 namespace or ''  4 x  5 y  6 reason  7 message
--   pause    x seconds, as the server demanded: nothing is created before
--   cleanup_pause  x seconds, as the server demanded of a clean-up: no clean-up is sent before
--   stumble  x first wait, y longest wait (s): it failed or did not answer; the wait doubles while that continues
--   remind   x seconds of a wait that a launcher knows, y tolerated difference (s): restores a wait that Redis lost
--   recover  a pod was created: the next stumble is a first one again
--   refused  namespace  x first wait, y longest wait (s): its quota is exhausted; the message names no pod, because other
--            launches report it
--   cleanup_refused  namespace  message: clean-ups there are refused, which only `status` reads
--   cleanup_worked   namespace: they work again
--   passed   namespace  x how many more launches may try: this one was created (or never tried, x = 1)
-- Returns the seconds to wait.
-- A namespace with an exhausted quota admits one launch; each success admits one and a quarter more. The queue thus moves
-- fast where there is room, and a full quota causes fewer refusals than launches that passed.
run_when_full(KEYS[1])
local now = redis_time()
local event, namespace, x, y = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local function get(name) return number_of(redis.call('HGET', KEYS[1], name)) end
-- Seconds until the time in a field; 0 for one beyond what any launcher writes.
local function left(name)
  local wait = get(name) - now
  return wait <= (namespace == '' and PAUSE_MOST_S or QUOTA_PAUSE_MOST_S) and wait or 0
end
local function set(...) redis.call('HSET', KEYS[1], ...); redis.call('EXPIRE', KEYS[1], 3600) end
local wait = 0

if event == 'pause' then
  wait = math.max(x, left('until'))
  set('until', seconds(now + wait), 'reason', ARGV[6])
elseif event == 'cleanup_pause' then
  wait = math.max(x, left('cleanup_until'))
  set('cleanup_until', seconds(now + wait))
elseif event == 'stumble' then
  wait = left('until')
  if wait <= 0 then  -- counts once for all requests in flight
    local failures = within(redis.call('HGET', KEYS[1], 'failures'), 0, 1000) + 1
    wait = math.min(y, x * 2 ^ math.min(failures - 1, 30))
    set('failures', failures, 'until', seconds(now + wait), 'reason', ARGV[6])
  end
elseif event == 'remind' then
  if left('until') < x - y then
    wait = x
    set('until', seconds(now + wait), 'reason', ARGV[6])
  end
elseif event == 'recover' then
  redis.call('HDEL', KEYS[1], 'failures')
elseif event == 'cleanup_refused' then
  set('cleanup:' .. namespace, ARGV[7], 'cleanup_at:' .. namespace, seconds(now))
elseif event == 'cleanup_worked' then
  redis.call('HDEL', KEYS[1], 'cleanup:' .. namespace, 'cleanup_at:' .. namespace)
elseif event == 'refused' then
  local field = 'until:' .. namespace
  wait = left(field)
  if wait <= 0 or redis.call('HGET', KEYS[1], 'probing:' .. namespace) == '1' then
    -- The wait converges to where a few launches pass between two refusals.
    local before = within(redis.call('HGET', KEYS[1], 'window:' .. namespace), 0, y)
    local passed = get('passed:' .. namespace)
    wait = before == 0 and x or passed == 0 and math.min(y, before * 2) or passed > 3 and math.max(x, before / 2) or before
    set(field, seconds(now + wait), 'window:' .. namespace, seconds(wait), 'probing:' .. namespace, 0, 'allow:' .. namespace, 0,
      'passed:' .. namespace, 0, 'reason:' .. namespace, ARGV[6], 'message:' .. namespace, ARGV[7])
  end
elseif event == 'passed' then
  if redis.call('HGET', KEYS[1], 'probing:' .. namespace) == '1' then
    if x > 1 and redis.call('HINCRBY', KEYS[1], 'passed:' .. namespace, 1) >= 64 then
      for _, name in ipairs({ 'until:', 'window:', 'probing:', 'allow:', 'passed:', 'reason:', 'message:' }) do
        redis.call('HDEL', KEYS[1], name .. namespace)
      end
    else
      redis.call('HINCRBYFLOAT', KEYS[1], 'allow:' .. namespace, x)
      set('until:' .. namespace, seconds(now + y))
    end
    redis.call('PUBLISH', ARGV[1], '1')
  end
end
if wait > 0 and namespace == '' then
  redis.call('PUBLISH', ARGV[1], (event == 'cleanup_pause' and event or 'pause') .. ' ' .. seconds(wait))
end
return seconds(wait)
