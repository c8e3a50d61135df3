#!/usr/bin/env bash
# Software: kubernetes 36.0.3 (Python client), urllib3 2.8.0, kubernetes_asyncio 36.1.0.
#
# Expected: list_namespaced_pod(..., _request_timeout=1) is over after about a second,
#   and a 429 from the API server reaches the caller at once, as ApiException, whatever
#   the verb is.
# Seen: LIST, GET and DELETE sleep inside the call. The client leaves retries to
#   urllib3, whose default honours Retry-After on a 429 or 503, three times, for those
#   verbs that it holds to be idempotent; _request_timeout bounds each request and
#   not the sleep. "Retry-After: 2" makes a call with a timeout of 1 s last 6 s, with
#   four requests. POST and PATCH are not repeated and fail at once. The asyncio client
#   never repeats.
# Why it matters: under throttling a loop that only deletes and lists stands still for
#   3 x Retry-After a call, silently, in the thread that was to send the heartbeats,
#   and a server under load is asked four times. The API server chooses the number.
#   With Configuration.retries = False the answer comes at once.
# No issue about it was found in the public tracker.
#
# Output on 2026-11-27:
#   kubernetes 36.0.3, urllib3 2.8.0, kubernetes_asyncio 36.1.0, Python 3.11
#   _request_timeout=1, the server always answers 429 with Retry-After: 2
#   sync  list:   ApiException 429 after 6 s, 4 requests
#   sync  delete: ApiException 429 after 6 s, 4 requests
#   sync  create: ApiException 429 after 0 s, 1 request
#   sync  patch:  ApiException 429 after 0 s, 1 request
#   async list:   ApiException 429 after 0 s, 1 request
#   retries off:  ApiException 429 after 0 s, 1 request
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    kubernetes==36.0.3 urllib3==2.8.0 kubernetes_asyncio==36.1.0

"$work/venv/bin/python" - <<'PY'
import asyncio
import http.server
import sys
import threading
import time
from importlib.metadata import version

import kubernetes
import kubernetes_asyncio

print(", ".join(f"{name} {version(name)}" for name in ("kubernetes", "urllib3", "kubernetes_asyncio")) + ",",
      "Python %d.%d" % sys.version_info[:2])
requests = []


class Throttled(http.server.BaseHTTPRequestHandler):
    """Answers like an API server whose flow control has no seat left."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        requests.append(self.command)
        body = b"Too many requests, please try again later.\n"
        self.send_response(429)
        self.send_header("Retry-After", "2")
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = do_DELETE = answer

    def log_message(self, *args):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Throttled)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"


def show(name, start, error):
    seconds = time.monotonic() - start
    print(f"{name:13} {type(error).__name__} {getattr(error, 'status', '')} after {seconds:.0f} s,"
          f" {len(requests)} request{'s' * (len(requests) > 1)}")
    return seconds, len(requests)


settings = kubernetes.client.Configuration()
settings.host = url
core = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(settings))
pod = {"metadata": {"name": "p"}}
print("_request_timeout=1, the server always answers 429 with Retry-After: 2")
seen = {}
for name, call in {
    "list": lambda: core.list_namespaced_pod("d", _request_timeout=1),
    "delete": lambda: core.delete_namespaced_pod("p", "d", _request_timeout=1),
    "create": lambda: core.create_namespaced_pod("d", pod, _request_timeout=1),
    "patch": lambda: core.patch_namespaced_pod("p", "d", pod, _request_timeout=1),
}.items():
    requests.clear()
    start = time.monotonic()
    try:
        call()
    except Exception as error:
        seen[name] = show(f"sync  {name}:", start, error)


async def asynchronous():
    settings = kubernetes_asyncio.client.Configuration()
    settings.host = url
    async with kubernetes_asyncio.client.ApiClient(settings) as api:
        requests.clear()
        start = time.monotonic()
        try:
            await kubernetes_asyncio.client.CoreV1Api(api).list_namespaced_pod("d", _request_timeout=1)
        except Exception as error:
            return show("async list:", start, error)


seen["async"] = asyncio.run(asynchronous())
settings.retries = False
core = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(settings))
requests.clear()
start = time.monotonic()
try:
    core.list_namespaced_pod("d", _request_timeout=1)
except Exception as error:
    seen["plain"] = show("retries off:", start, error)
if any(seen[name][0] < 5 or seen[name][1] != 4 for name in ("list", "delete")):
    sys.exit("CHANGED: list and delete no longer sleep past their timeout")
if any(seen[name][1] != 1 for name in ("create", "patch", "async", "plain")):
    sys.exit("CHANGED: calls that came back at once are now repeated")
PY
