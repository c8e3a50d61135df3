"""The limit: the launcher's own HTTP connections and bodies, with the same concurrency, and nothing else.

It waits as long as a 429 asks for, with that one request, as client-go does; with `--delete` it then deletes the pods.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from podrelay_workers.kube.connection_pool import ConnectionPool, Limits, encode_headers
from podrelay_workers.kube.credentials import Credentials, load_credentials
from podrelay_workers.launcher.pod_manifest import ManifestRenderer
from tests.benchmarks.backlog import DEPLOYMENT, requests


async def bodies(dag_id: str, count: int, namespace: str) -> list[bytes]:
    """What the launcher would send, ready made."""
    manifests = ManifestRenderer(DEPLOYMENT)
    try:
        return [json.dumps(await manifests.make(request), separators=(",", ":")).encode()
                for request in requests(dag_id, count, namespace)]  # fmt: skip
    finally:
        manifests.close()


def pool_of(credentials: Credentials, limit: int) -> ConnectionPool:
    """As the launcher makes it."""
    tls = credentials.tls if isinstance(credentials.tls, ssl.SSLContext) else None
    name = credentials.request_options().get("server_hostname")
    return ConnectionPool(credentials.host, tls, limit=limit, server_name=name, socket_options=credentials.keepalive)


async def post(dag_id: str, count: int, namespace: str, concurrency: int, delete: bool = False) -> dict[str, Any]:
    """Post all bodies; pods a second by its own clock, CPU a pod, and how many requests were refused for now."""
    ready = await bodies(dag_id, count, namespace)
    credentials = await load_credentials()
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    lines = encode_headers(await credentials.all_headers("bare client", headers))
    pool, limits = pool_of(credentials, concurrency), Limits(60.0, 60.0)
    base = f"/api/v1/namespaces/{namespace}/pods"
    refused = 0
    try:

        async def one(requests: Iterator[tuple[str, str, bytes]]) -> None:
            for method, path, body in requests:
                while not await sent(method, path, body):
                    pass

        async def sent(method: str, path: str, body: bytes) -> bool:
            nonlocal refused
            answer = await pool.request(method, base + path, lines, body, limits)
            if answer.status < 300:
                return True
            if answer.status != 429:
                raise RuntimeError(f"{method}: {answer.status} {answer.reason}")
            refused += 1
            await asyncio.sleep(float(answer.headers.get("Retry-After", 0)))
            return False

        async def all_of(requests: Iterator[tuple[str, str, bytes]]) -> None:
            await asyncio.gather(*(one(requests) for _ in range(concurrency)))

        begun, cpu = time.perf_counter(), time.process_time()
        await all_of(("POST", "", body) for body in ready)
        took_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
        if delete:
            names = [json.loads(body)["metadata"]["name"] for body in ready]
            await all_of(("DELETE", f"/{name}", b'{"gracePeriodSeconds":0}') for name in names)
    finally:
        await pool.close()
    return {
        "own_pods_per_s": count / took_s,
        "cpu_ms_per_pod": 1000 * cpu_s / count,
        "seconds": time.perf_counter() - begun,
        "refused": refused,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dag-id", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--delete", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    measured = asyncio.run(post(options.dag_id, options.tasks, options.namespace, options.concurrency, options.delete))
    options.out.write_text(json.dumps(measured))
