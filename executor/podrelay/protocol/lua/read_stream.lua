-- Read the next entries of a stream, in bounded pieces. Entries that are too long are passed over and quarantined.
-- Runs behind prelude.lua.
--
-- KEYS: 1 the stream  2 quarantine
-- ARGV: 1 id of the last entry that was read, '$' = only find the last one  2 maximum number  3 maximum length of an entry
--       4 total length after which no further entry is read  5.. fields that are wanted; none: all
-- Returns the id of the last entry that was read or passed over, then the entries: each as its id and its fields and values; or,
-- for the wanted fields, flat, each as its id and these values, '' for one that it lacks.
-- A key of another type is deleted, and counts as empty; so does a stream that takes no more entries, once it is read.
run_when_full(KEYS[1])
if ARGV[1] == '$' then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
  return { last[1] and last[1][1] or '0-0' }
end
-- Nothing can follow this id. Who has read up to it begins anew: in a new stream, if another process was first.
local LAST_ID = '18446744073709551615-18446744073709551615'
if ARGV[1] == LAST_ID then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
  if last[1] and last[1][1] == LAST_ID then remove(EXHAUSTED, KEYS[1]) end
  ARGV[1] = '0-0'
end
local position, left, total, oversized, entries = ARGV[1], tonumber(ARGV[2]), 0, false, {}
local place, width = {}, #ARGV - 4
for i = 1, width do place[ARGV[i + 4]] = i end
-- Few at once, and no more after one that is too long: reading it takes Redis some milliseconds, for nothing.
while left > 0 and total <= tonumber(ARGV[4]) and not oversized and position ~= LAST_ID do
  local found = redis.call('XRANGE', KEYS[1], '(' .. position, '+', 'COUNT', math.min(left, 4))
  if #found == 0 then break end
  left = left - #found
  for _, entry in ipairs(found) do
    local length = 0
    for _, value in ipairs(entry[2]) do length = length + #value end
    position = entry[1]
    if length > tonumber(ARGV[3]) then
      oversized = true
      quarantine(KEYS[2], position, 'oversized', 'a stream entry of ' .. length .. ' bytes, more than podrelay writes')
    else
      total = total + length
      if width == 0 then
        entries[#entries + 1] = entry
      else
        local last, values = #entries + 1, entry[2]
        entries[last] = position
        for i = 1, width do entries[last + i] = '' end
        for i = 1, #values, 2 do
          local at = place[values[i]]
          if at then entries[last + at] = values[i + 1] end
        end
      end
    end
  end
end
return { position, entries }
