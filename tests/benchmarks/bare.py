"""The limit: a bare asyncio HTTP client that posts the launcher's own bodies with the same concurrency, and nothing else."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
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


async def post(dag_id: str, count: int, namespace: str, concurrency: int) -> dict[str, Any]:
    """Post all bodies; pods a second by its own clock, and CPU a pod."""
    ready = await bodies(dag_id, count, namespace)
    access = await load_credentials()
    url = f"{access.host}/api/v1/namespaces/{namespace}/pods"
    headers = {**await access.headers(), "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0, ssl=access.tls)
    waiting = iter(ready)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def one() -> None:
            for body in waiting:
                async with session.post(url, data=body) as answer:
                    await answer.read()
                    answer.raise_for_status()

        begun, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one() for _ in range(concurrency)))
        took_s = time.perf_counter() - begun
    return {"own_pods_per_s": count / took_s, "cpu_ms_per_pod": 1000 * (time.process_time() - cpu) / count}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dag-id", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    measured = asyncio.run(post(options.dag_id, options.tasks, options.namespace, options.concurrency))
    options.out.write_text(json.dumps(measured))
