-- Record what could not be trusted or read. Scripts do it with the function of prelude.lua.
-- Runs behind prelude.lua.
--
-- KEYS: 1 quarantine
-- ARGV: 1 maximum length of the stream  then 4 per entry: job | launch | stream_entry | key, its name, kind, why
-- Returns nothing.
run_when_full(KEYS[1])
for i = 2, #ARGV, 4 do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', ARGV[i], ARGV[i + 1], 'kind', ARGV[i + 2], 'why', ARGV[i + 3])
end
