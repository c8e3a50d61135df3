-- Which of these commands may the user who runs this script not run? Nothing is run, and no denial is logged.
--
-- KEYS: none
-- ARGV: 1 JSON, one array of words per command, as the process would call it
-- Returns the positions of those that are denied, from 1 on; nothing where the server cannot say so (Redis 6.2).
if not redis.acl_check_cmd then return false end
local denied = {}
for i, words in ipairs(cjson.decode(ARGV[1])) do
  -- It raises an error for a command that the server does not have, or has under another name.
  local known, allowed = pcall(redis.acl_check_cmd, unpack(words))
  if known and not allowed then denied[#denied + 1] = i end
end
return denied
