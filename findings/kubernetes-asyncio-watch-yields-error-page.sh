#!/usr/bin/env bash
# Software: kubernetes_asyncio 36.1.0, kubernetes 36.0.3 (Python clients), aiohttp 3.14.5.
#
# Expected: a watch whose request is answered with 429 raises ApiException, as the
#   same list call does and as the watch of the synchronous client does.
# Seen: Watch.stream() of the asyncio client does not look at the status of the answer.
#   It reads the body as if it were events, and a line that is not JSON is handed to
#   the caller as an "event", as a plain str. An overloaded API server refuses with
#   text/plain ("Too many requests, please try again later."), a load balancer
#   with HTML. When the body ends the watch asks again at once, without end: no pause, no
#   look at Retry-After.
# Why it matters: code that does event["type"] dies of a TypeError that says
#   nothing of throttling. Code that skips what it does not know becomes a busy loop
#   against a server that has asked to be left alone for a minute. Check
#   isinstance(event, dict), and pause.
# Known in part: tomplus/kubernetes_asyncio issue 431 wants a back-off for a 429 whose
#   body is JSON; that one does raise.
#
# Output on 2026-11-27:
#   kubernetes_asyncio 36.1.0, kubernetes 36.0.3, aiohttp 3.14.5, Python 3.11
#   asyncio watch: 50 "events" of type str from 50 requests, all refused with Retry-After: 60
#   first one: 'Too many requests, please try again later.\n'
#   asyncio list: ApiException 429
#   synchronous watch: ApiException 429
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    kubernetes_asyncio==36.1.0 kubernetes==36.0.3 aiohttp==3.14.5

"$work/venv/bin/python" - <<'PY'
import asyncio
import http.server
import sys
import threading
from importlib.metadata import version

import kubernetes
import kubernetes_asyncio

print(", ".join(f"{name} {version(name)}" for name in ("kubernetes_asyncio", "kubernetes", "aiohttp")) + ",",
      "Python %d.%d" % sys.version_info[:2])
requests = []


class Throttled(http.server.BaseHTTPRequestHandler):
    """Answers like an API server whose flow control has no seat left."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        requests.append(self.path)
        body = b"Too many requests, please try again later.\n"
        self.send_response(429)
        self.send_header("Retry-After", "60")
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Throttled)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"


async def asynchronous():
    settings = kubernetes_asyncio.client.Configuration()
    settings.host = url
    async with kubernetes_asyncio.client.ApiClient(settings) as api:
        core = kubernetes_asyncio.client.CoreV1Api(api)
        events = []

        async def follow():
            async with kubernetes_asyncio.watch.Watch() as watch:
                async for event in watch.stream(core.list_namespaced_pod, "d"):
                    events.append(event)
                    if len(events) == 50:
                        return

        try:
            await asyncio.wait_for(follow(), 60)
        except Exception as error:
            sys.exit(f"CHANGED: the watch now ends with {error!r}")
        asked = len(requests)
        try:
            await core.list_namespaced_pod("d")
        except kubernetes_asyncio.client.ApiException as error:
            return events, asked, error


events, asked, error = asyncio.run(asynchronous())
kinds = {type(event).__name__ for event in events}
print(f'asyncio watch: {len(events)} "events" of type {", ".join(kinds)} from {asked} requests,'
      " all refused with Retry-After: 60")
print(f"first one: {events[0]!r}")
print(f"asyncio list: {type(error).__name__} {error.status}")

settings = kubernetes.client.Configuration()
settings.host = url
settings.retries = False
core = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(settings))
try:
    list(kubernetes.watch.Watch().stream(core.list_namespaced_pod, "d"))
except kubernetes.client.ApiException as error:
    print(f"synchronous watch: {type(error).__name__} {error.status}")
else:
    sys.exit("CHANGED: the synchronous watch no longer raises")
if kinds != {"str"} or asked != 50:
    sys.exit("CHANGED: the asyncio watch no longer hands the refusal on as text")
PY
