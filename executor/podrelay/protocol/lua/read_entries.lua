-- Read ledger entries. Values that are too long are left out; an entry with many fields is deleted.
-- Runs behind prelude.lua.
--
-- KEYS: 1 quarantine
-- ARGV: 1 launch prefix  2.. launch ids
-- Returns per launch its fields and values, flat; empty for an unknown launch or a key of another type.
local entries = {}
for i = 2, #ARGV do
  local found, entry = read_all(ARGV[1] .. ARGV[i], 200), {}
  for j = 1, #found, 2 do
    if #found[j] <= VALUE_MAX and #found[j + 1] <= (found[j] == 'result' and RESULT_MAX or VALUE_MAX) then
      entry[#entry + 1] = found[j]; entry[#entry + 1] = found[j + 1]
    end
  end
  entries[#entries + 1] = entry
end
return entries
