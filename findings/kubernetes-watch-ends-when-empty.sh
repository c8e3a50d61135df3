#!/usr/bin/env bash
# Software: kubernetes 36.0.3, kubernetes_asyncio 36.1.0 (Python clients).
#
# Expected: Watch().stream(list_namespaced_pod, "team") goes on until stop() is called or
#   an error is raised; when the server closes the connection, as API servers do
#   every 30 to 60 minutes, it connects again.
# Seen: it does so only if it has seen an event. The synchronous client remembers the
#   version of the last object to go on from. In an empty namespace there is none, and
#   then it takes the end of the first connection for the end of the watch: the for
#   loop is over, without an error or a log line. The asyncio client goes on, asking
#   again at once each time.
# Why it matters: a watcher process that is started before the first pod exists (each
#   new namespace, each test cluster) leaves its loop after half an hour, and
#   every pod after that goes unseen. Put a loop around stream(), or list first and
#   pass the list's resource_version, with which the watch goes on.
# No issue about it was found in the public tracker.
#
# Output on 2026-11-27:
#   kubernetes 36.0.3, kubernetes_asyncio 36.1.0, Python 3.11
#   synchronous, empty namespace:        over, without an error, connections: 1
#   synchronous, one pod:                still going after 3 s, connections: 15
#   synchronous, empty, with a version:  still going after 3 s, connections: 15
#   asyncio,     empty namespace:        still going after 3 s, connections: 15
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    kubernetes==36.0.3 kubernetes_asyncio==36.1.0

"$work/venv/bin/python" - <<'PY'
import asyncio
import http.server
import json
import sys
import threading
import time
from importlib.metadata import version

import kubernetes
import kubernetes_asyncio

print(", ".join(f"{name} {version(name)}" for name in ("kubernetes", "kubernetes_asyncio")) + ",",
      "Python %d.%d" % sys.version_info[:2])
requests = []
pods = 0


class Cluster(http.server.BaseHTTPRequestHandler):
    """Sends the pods that are there, then closes the watch as a server does in time."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        requests.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(pods):
            pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "resourceVersion": str(7 + number)}}
            line = json.dumps({"type": "ADDED", "object": pod}).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        time.sleep(0.2)  # half an hour, in short
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
settings = kubernetes.client.Configuration()
settings.host = url
core = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(settings))


def watch_for(seconds, **options):
    """Runs a watch in a thread; returns whether it is still going after the time, and its connections."""
    requests.clear()
    watch = kubernetes.watch.Watch()
    failed = []

    def follow():
        try:
            for _ in watch.stream(core.list_namespaced_pod, "team", **options):
                pass
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    thread.join(seconds)
    going, count = thread.is_alive(), len(requests)
    if failed:
        sys.exit(f"CHANGED: the watch now ends with {failed[0]!r}")
    watch.stop()
    return going, count


def show(name, going, count):
    print(f"{name} {'still going after 3 s' if going else 'over, without an error'}, connections: {count}")
    return going


empty = show("synchronous, empty namespace:       ", *watch_for(3))
pods = 1
filled = show("synchronous, one pod:               ", *watch_for(3))
pods = 0
versioned = show("synchronous, empty, with a version: ", *watch_for(3, resource_version="7"))


async def asynchronous():
    settings = kubernetes_asyncio.client.Configuration()
    settings.host = url
    requests.clear()
    async with kubernetes_asyncio.client.ApiClient(settings) as api:
        async with kubernetes_asyncio.watch.Watch() as watch:
            async def follow():
                async for _ in watch.stream(kubernetes_asyncio.client.CoreV1Api(api).list_namespaced_pod, "team"):
                    pass
            try:
                await asyncio.wait_for(follow(), 3)
            except asyncio.TimeoutError:
                return True, len(requests)
            return False, len(requests)


other = show("asyncio,     empty namespace:       ", *asyncio.run(asynchronous()))
if empty or not filled or not versioned or not other:
    sys.exit("CHANGED: the end of a connection now ends another set of watches")
PY
