"""The limit: a bare asyncio HTTP client that posts the same pod bodies with the same concurrency, and does nothing else."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aiohttp


def bodies(template: Path, count: int) -> list[bytes]:
    """Request bodies like those of the launcher: rendered by the provider from the same template."""
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

    made = []
    base = PodGenerator.deserialize_model_file(str(template))
    pod = PodGenerator.construct_pod(
        dag_id="bench", task_id="bare", pod_id="bare", try_number=1, kube_image="", date=None,
        args=["python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string", "x" * 1200],
        pod_override_object=None, base_worker_pod=base, namespace="default", scheduler_job_id="1", run_id="run",
    )  # fmt: skip
    document = PodGenerator.serialize_pod(pod)
    stamp = f"{time.time_ns():x}"
    for number in range(count):
        document["metadata"]["name"] = f"bare-{stamp}-{number}"
        made.append(json.dumps(document).encode())
    return made


async def post(kubeconfig: Path, requests: list[bytes], concurrency: int) -> dict[str, Any]:
    """Post all bodies; pods a second and CPU seconds a pod."""
    import yaml

    # A kubeconfig with a bearer token, as the local cluster and every service account has.
    config = yaml.safe_load(kubeconfig.read_text())
    url = config["clusters"][0]["cluster"]["server"] + "/api/v1/namespaces/default/pods"
    headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}", "Content-Type": "application/json"}
    waiting = iter(requests)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def one() -> None:
            for body in waiting:
                async with session.post(url, data=body) as answer:
                    await answer.read()
                    answer.raise_for_status()

        begun, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one() for _ in range(concurrency)))
        took_s = time.perf_counter() - begun
    return {"pods_per_s": len(requests) / took_s, "cpu_ms_per_pod": 1000 * (time.process_time() - cpu) / len(requests)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    measured = asyncio.run(post(options.kubeconfig, bodies(options.template, options.tasks), options.concurrency))
    options.out.write_text(json.dumps(measured))
