"""Sees what every contestant does, from outside: when each pod appeared, ended and was gone, by its own watch.

A separate process, on any cluster (an API server's creationTimestamp has whole seconds only). Writes lines of
`what <tab> dag.task <tab> seconds since the epoch`, what being `created`, `running`, `ended` or `deleted`, and `ready` when
it has begun.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import TextIO

from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.errors import ApiError

ENDED = ("Succeeded", "Failed")


async def observe(namespace: str, out: TextIO) -> None:
    created: set[str] = set()
    running: set[str] = set()
    ended: set[str] = set()

    def note(pod: dict[str, object], deleted: bool) -> None:
        metadata, status = pod["metadata"], pod.get("status") or {}
        assert isinstance(metadata, dict)
        assert isinstance(status, dict)
        about = metadata.get("annotations") or {}
        task, now = f"{about.get('dag_id')}.{about.get('task_id')}", time.time()
        if metadata["uid"] not in created:
            created.add(metadata["uid"])
            out.write(f"created\t{task}\t{now:.6f}\n")
        if status.get("phase") == "Running" and metadata["uid"] not in running:
            running.add(metadata["uid"])
            out.write(f"running\t{task}\t{now:.6f}\n")
        if status.get("phase") in ENDED and metadata["uid"] not in ended:
            ended.add(metadata["uid"])
            out.write(f"ended\t{task}\t{now:.6f}\n")
        if deleted:
            out.write(f"deleted\t{task}\t{now:.6f}\n")

    async with await PodClient.connect() as api:
        page = await api.list_page(namespace, partial=True, limit=0)
        for pod in page.items:
            created.add(pod["metadata"]["uid"])
        out.write("ready\t\t0\n")
        version = page.version
        while True:
            try:
                async for event in api.watch_stream(namespace, version=version, partial=True):
                    version = str(event["object"]["metadata"].get("resourceVersion") or version)
                    if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                        note(event["object"], event["type"] == "DELETED")
            except ApiError as error:
                if error.status == 410:
                    raise SystemExit("the observer was left behind: this measurement is void") from error


async def main(namespace: str, path: Path) -> None:
    with path.open("w") as out:
        task = asyncio.ensure_future(observe(namespace, out))
        while not task.done():
            out.flush()
            await asyncio.wait([task], timeout=0.1)
        task.result()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    asyncio.run(main(options.namespace, options.out))
