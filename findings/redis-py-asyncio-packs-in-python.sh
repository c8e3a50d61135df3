#!/usr/bin/env bash
# Software: redis-py 8.1.0, hiredis 3.4.0.
#
# Expected: with hiredis installed redis-py works in C, blocking or with asyncio: both kinds of connection read
#   replies with it.
# Seen: only the blocking connection also writes commands with hiredis. The asyncio one joins every command from
#   Python strings, several times as slow, with the same bytes as the result.
# Why it matters: whoever sends scripts with many arguments, or pipelines, pays more for the packing of a command
#   than for the rest of the client. It is easily missed: a profile of the blocking client shows nothing of it, and
#   "hiredis is installed" is where one stops looking. A subclass of the connection with a `pack_command` of one
#   line is enough.
#
# Output on 2026-11-28:
#   redis-py 8.1.0, hiredis 3.4.0
#   a command of 38 words, packed by the blocking connection: 5.8 us
#   a command of 38 words, packed by the asyncio connection: 18.2 us
#   the same bytes: True
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile redis==8.1.0 hiredis==3.4.0
cat >"$work/pack.py" <<'PY'
import sys
import timeit
from importlib.metadata import version

import redis
import redis.asyncio

# A script with as many arguments as one that writes a dozen fields has.
command = ["EVALSHA", "0" * 40, 4, *(f"app:key:{n}" for n in range(4)), *("value of a field" for _ in range(31))]
rounds = 20_000
took_us = {}
packed = {}
for name, kind in (("blocking", redis.Connection), ("asyncio", redis.asyncio.Connection)):
    connection = kind()  # connects only when it sends
    packed[name] = b"".join(connection.pack_command(*command))
    took_us[name] = min(timeit.repeat(lambda: connection.pack_command(*command), number=rounds, repeat=3)) * 1e6 / rounds
print(f"redis-py {version('redis')}, hiredis {version('hiredis')}")
for name, us in took_us.items():
    print(f"a command of {len(command)} words, packed by the {name} connection: {us:.1f} us")
same = packed["blocking"] == packed["asyncio"]
print(f"the same bytes: {same}")
sys.exit(not (same and took_us["asyncio"] > 2 * took_us["blocking"]))
PY
"$work/venv/bin/python" "$work/pack.py" || { echo "CHANGED: both connections pack commands alike"; exit 1; }
