-- Read the next entries of the results stream that say that a container runs or an attempt has ended, with what the ledger
-- holds of the attempt; not their reports. In bounded pieces.
-- Runs behind prelude.lua.
--
-- KEYS: 1 results
-- ARGV: 1 id of the last entry that was read  2 maximum number  3 launch prefix  4 cluster: entries of others are passed over
--       5 fields of the ledger, separated by commas
-- Returns the id of the last entry that was read or passed over, then per entry: its id, outcome, 1 if it is the first that
-- says that the container ran, the class of a failure, then the fields. Fields of another attempt are left out.
-- A stream that ends before the id was replaced: reading goes on at its end.
run_when_full(KEYS[1])
local position, left, rows = ARGV[1], tonumber(ARGV[2]), {}
local COUNTED = { started = true, succeeded = true, failed = true, expired = true }

-- Is this id the later one? Inexact beyond 2^53, which no clock reaches.
local function is_later(id, than)
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  local other_ms, other_number = string.match(than, '^(%d+)-(%d+)$')
  if not other_ms then return true end
  if ms ~= other_ms then return tonumber(ms) > tonumber(other_ms) end
  return tonumber(number) > tonumber(other_number)
end

-- Name -> value of an entry's short fields.
local function short_fields(flat)
  local found = {}
  for i = 1, #flat, 2 do
    if #flat[i] <= 20 and #flat[i + 1] <= 63 then found[flat[i]] = flat[i + 1] end
  end
  return found
end

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last or not is_later(last[1], position) then return { last and last[1] or position, {} } end
local names = { 'cluster' }
for name in string.gmatch(ARGV[5], '[^,]+') do names[#names + 1] = name end
while left > 0 and position ~= last[1] do
  -- Few at once: an entry may be long.
  local found = redis.call('XRANGE', KEYS[1], '(' .. position, '+', 'COUNT', math.min(left, 10))
  if #found == 0 then break end
  left = left - #found
  for _, item in ipairs(found) do
    position = item[1]
    local fields = short_fields(item[2])
    if fields.launch and COUNTED[fields.outcome] then
      local entry = read_ledger(ARGV[3] .. fields.launch, unpack(names))
      if entry[2] == ARGV[4] then
        local row = { position, fields.outcome, fields.first_run or '', fields.failure_class or '' }
        local same = entry[1] == fields.attempt
        for i = 3, #names + 1 do row[#row + 1] = same and entry[i] or '' end
        rows[#rows + 1] = row
      end
    end
  end
end
return { position, rows }
