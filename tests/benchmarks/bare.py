"""The limit: a bare asyncio HTTP client that posts the launcher's own bodies with the same concurrency, and nothing else.

It waits as long as a 429 asks for, with that one request, as client-go does; with `--delete` it then deletes the pods.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

from podrelay_workers.kube.credentials import load_credentials
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


async def post(dag_id: str, count: int, namespace: str, concurrency: int, delete: bool = False) -> dict[str, Any]:
    """Post all bodies; pods a second by its own clock, CPU a pod, and how many requests were refused for now."""
    ready = await bodies(dag_id, count, namespace)
    access = await load_credentials()
    url = f"{access.host}/api/v1/namespaces/{namespace}/pods"
    headers = {**await access.headers(), "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0, ssl=access.tls)
    refused = 0
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def one(requests: Iterator[tuple[str, str, bytes]]) -> None:
            for method, path, body in requests:
                while not await sent(method, path, body):
                    pass

        async def sent(method: str, path: str, body: bytes) -> bool:
            nonlocal refused
            async with session.request(method, url + path, data=body) as answer:
                await answer.read()
                if answer.status != 429:
                    answer.raise_for_status()
                    return True
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
