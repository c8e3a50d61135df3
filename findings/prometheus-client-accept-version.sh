#!/usr/bin/env bash
# Software: prometheus_client 0.26.0.
#
# Expected: an endpoint that does not know the version of OpenMetrics that a scraper asks for
#   falls back to one that it knows, as content negotiation in HTTP does.
# Seen: it answers in the old format, and its Content-Type claims the version that was asked for,
#   whatever it is.
# Why it matters: a scraper that reads the answer as what it claims to be misreads every
#   Python service, or drops its metrics, as soon as it offers the candidate of a new format,
#   at a time when nobody changed the services.
#
# Output on 2026-11-27:
#   prometheus_client 0.26.0, Python 3.11
#   version=1.0.0: Content-Type application/openmetrics-text; version=1.0.0, the metric ends with _total: True
#   version=2.0.0-rc1: Content-Type application/openmetrics-text; version=2.0.0-rc1, same body: True
#   version=7: Content-Type application/openmetrics-text; version=7, same body: True
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile prometheus_client==0.26.0

"$work/venv/bin/python" - 2>"$work/log" <<'PY' || { cat "$work/log" >&2; exit 1; }
import sys
import urllib.request
from importlib.metadata import version

import prometheus_client

registry = prometheus_client.CollectorRegistry()
prometheus_client.Counter("jobs", "Jobs.", registry=registry).inc()
prometheus_client.disable_created_metrics()
server, _ = prometheus_client.start_http_server(0, addr="127.0.0.1", registry=registry)


def scrape(asked):
    headers = {"Accept": f"application/openmetrics-text; version={asked}"}
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return "; ".join(answer.headers["Content-Type"].split("; ")[:2]), answer.read()


print(f"prometheus_client {version('prometheus_client')}, Python %d.%d" % sys.version_info[:2])
claimed, known = scrape("1.0.0")
print(f"version=1.0.0: Content-Type {claimed}, the metric ends with _total: {b'jobs_total' in known}")
for asked in ("2.0.0-rc1", "7"):
    claimed, body = scrape(asked)
    print(f"version={asked}: Content-Type {claimed}, same body: {body == known}")
    if body != known or not claimed.endswith(f"version={asked}"):
        sys.exit("CHANGED: an unknown version is negotiated in another way")
PY
