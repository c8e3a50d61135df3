#!/usr/bin/env bash
# Software: kubernetes 36.0.3 (Python client).
#
# Expected: Watch().stream(..., deserialize=False) is the same watch without the cost of
#   building model objects: it goes on after a closed connection, and a version that has
#   become too old raises ApiException with status 410.
# Seen: it is another watch. Everything that keeps a watch going lives in the step that is
#   skipped. The version of the last event is not remembered: without a version to
#   start from the loop is over, with no error, when the server first closes the
#   connection; with one, each new connection starts again from that first version, so
#   all events since come again. And "too old" (410) arrives as KeyError: 'raw_object',
#   because the error handling reads a key that only the skipped step adds.
# Why it matters: the option is there for busy clusters, where the 410 is everyday. Code
#   that catches ApiException and lists again on a 410 dies instead, and code that
#   expects each event once sees some again, or none any more.
# No issue about it was found in the public tracker.
#
# Output on 2026-11-27:
#   kubernetes 36.0.3, Python 3.11
#   closed after version 7, started without a version
#     deserialize=True : goes on; versions asked for: -, 7, 7
#     deserialize=False: over after 1 event; versions asked for: -
#   closed after version 7, started from version 1
#     deserialize=True : goes on; versions asked for: 1, 7, 7
#     deserialize=False: goes on; versions asked for: 1, 1, 1
#   version 1 is too old
#     deserialize=True : ApiException 410; versions asked for: 1, 1
#     deserialize=False: KeyError 'raw_object'; versions asked for: 1
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile kubernetes==36.0.3

"$work/venv/bin/python" - <<'PY'
import http.server
import json
import sys
import threading
from importlib.metadata import version
from urllib.parse import parse_qs, urlsplit

import kubernetes

print(f"kubernetes {version('kubernetes')}, Python %d.%d" % sys.version_info[:2])
requests = []
POD = {"type": "ADDED", "object": {
    "kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "resourceVersion": "7"}}}
TOO_OLD = {"type": "ERROR", "object": {
    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410,
    "reason": "Expired", "message": "too old resource version: 1 (9)"}}
event = POD


class Cluster(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        requests.append(self.path)
        line = json.dumps(event).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(line), line))

    def log_message(self, *args):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
threading.Thread(target=server.serve_forever, daemon=True).start()
settings = kubernetes.client.Configuration()
settings.host = f"http://127.0.0.1:{server.server_port}"
core = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(settings))


def watch(**options):
    requests.clear()
    got = 0
    try:
        for _ in kubernetes.watch.Watch().stream(core.list_namespaced_pod, "team", **options):
            got += 1
            if got == 3:
                break
        end = "goes on" if got == 3 else f"over after {got} event"
    except Exception as error:
        end = f"{type(error).__name__} {getattr(error, 'status', error)}"
    asked = [parse_qs(urlsplit(path).query).get("resourceVersion", ["-"])[0] for path in requests]
    return end, asked


seen = {}
for name, event, options in (
    ("closed after version 7, started without a version", POD, {}),
    ("closed after version 7, started from version 1", POD, {"resource_version": "1"}),
    ("version 1 is too old", TOO_OLD, {"resource_version": "1"}),
):
    print(name)
    for deserialize in (True, False):
        end, asked = seen[name[:20], bool(options), deserialize] = watch(deserialize=deserialize, **options)
        print(f"  deserialize={deserialize!s:5}: {end}; versions asked for: {', '.join(asked)}")
ends = [end for end, asked in seen.values()]
if [ends[0], ends[2], ends[4]] != ["goes on", "goes on", "ApiException 410"]:
    sys.exit("CHANGED: the watch with model objects is no longer what it was")
if ends[1] != "over after 1 event" or not ends[5].startswith("KeyError"):
    sys.exit("CHANGED: without model objects the watch now ends in another way")
if list(seen.values())[3][1] != ["1", "1", "1"]:
    sys.exit("CHANGED: without model objects the watch now goes on from the last event")
PY
