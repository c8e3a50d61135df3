"""A simulated kubelet for an API server without nodes: `python -m tests.benchmarks.simulated_kubelet --namespace NS`.

It binds the executors' pods of one namespace to a node that does not exist, and writes the statuses that a kubelet writes,
each in a request of its own: scheduled, accepted, running and ready, containers ended, ended. A pod runs for
`local-cluster/duration-s`, as with the local cluster's simulated runner. A pod that is deleted while it runs ends with exit
code 143 and is then removed as by a kubelet, with grace period 0. SIGUSR1 ends all running pods at once.

The API server comes from Airflow's `[kubernetes_executor]`. Not for a cluster with nodes, whose scheduler binds pods too.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from podrelay_local_cluster.kubelet import pod_status
from podrelay_local_cluster.kubelet.pod_status import ContainerStatus
from podrelay_local_cluster.kubelet.simulation import DURATION_ANNOTATION, EXIT_CODE_ANNOTATION
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.connection import ApiConnection
from podrelay_workers.kube.credentials import load_credentials
from podrelay_workers.kube.errors import ApiError, Gone

Json = dict[str, Any]

log = logging.getLogger(__name__)

NODE = "simulated"
# Both executors label their pods so.
LABELS = "kubernetes_executor=True"
CONNECTIONS = 16
RETRY_S = 1.0
_SIGTERM_EXIT_CODE = 143
_ANSWER = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json"


class SimulatedPod:
    """What the kubelet knows of one pod, and the next status to write. No I/O."""

    def __init__(self, pod: Json) -> None:
        self.metadata = pod["metadata"]
        self._pod = {"spec": pod["spec"], "status": dict(pod.get("status") or {})}
        self._states: list[ContainerStatus] = pod_status.initial_statuses(pod["spec"])
        annotations = self.metadata.get("annotations") or {}
        self.duration_s = float(annotations.get(DURATION_ANNOTATION, "1.0"))
        self.exit_code = int(annotations.get(EXIT_CODE_ANNOTATION, "0"))
        self.ends = asyncio.Event()
        self.deleted = asyncio.Event()

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.metadata['namespace']}/pods/{self.metadata['name']}"

    def starting(self) -> Iterator[Json]:
        """The statuses from the acceptance to the start of the containers, one after the other."""
        yield self._written(sandbox=False)
        for state in self._states:
            if state.kind is pod_status.ContainerKind.INIT:
                state.set_terminated(0)
            else:
                state.set_running(f"simulated://{self.metadata['uid']}/{state.name}")
        yield self._written()

    def ending(self, exit_code: int) -> Iterator[Json]:
        """The statuses from the end of the containers to that of the pod. A deleted pod gets only the last one."""
        for state in self._states:
            if state.is_running:
                state.set_terminated(exit_code)
        if not self.deleted.is_set():
            yield self._written()
        yield self._written(final=True)

    def _written(self, sandbox: bool = True, final: bool = False) -> Json:
        status = pod_status.build(self._pod, self._states, sandbox=sandbox, final=final)
        del status["qosClass"]  # the API server's own
        self._pod["status"] = status
        return status


class SimulatedKubelet:
    """Lives the lives of all pods of a namespace. Pods that were bound before it began are left alone."""

    def __init__(self, api: PodClient, connection: ApiConnection, namespace: str) -> None:
        self._api = api
        self._connection = connection
        self._namespace = namespace
        self._pods: dict[str, tuple[SimulatedPod, asyncio.Task[None]]] = {}

    async def run(self, ready: Path | None = None) -> None:
        """List and watch until cancelled."""
        version = ""
        while True:
            try:
                version = version or await self._list()
                if ready is not None:
                    ready.touch()
                async for event in self._api.watch_stream(
                    self._namespace, version=version, labels=LABELS, partial=True
                ):
                    if event["type"] == "ERROR":
                        raise Gone(str(event["object"].get("message")), status=410)
                    version = str(event["object"]["metadata"].get("resourceVersion") or version)
                    self._observe(event["type"], event["object"])
            except Gone:
                version = ""
            except ApiError as error:
                log.warning("watch interrupted: %s; will retry", error)
                await asyncio.sleep(RETRY_S)

    def end_running(self) -> None:
        """End all pods that run, or will run by then, at once."""
        for pod, _ in self._pods.values():
            pod.ends.set()

    async def _list(self) -> str:
        page = await self._api.list_page(self._namespace, labels=LABELS, partial=True, limit=0)
        listed = {pod["metadata"]["uid"] for pod in page.items}
        for uid in self._pods.keys() - listed:
            self._forget(uid)
        for pod in page.items:
            self._observe("ADDED", pod)
        return page.version

    def _observe(self, kind: str, pod: Json) -> None:
        if kind == "BOOKMARK":
            return
        uid = pod["metadata"]["uid"]
        if kind == "DELETED":
            self._forget(uid)
        elif uid in self._pods:
            if pod["metadata"].get("deletionTimestamp"):
                self._pods[uid][0].deleted.set()
                self._pods[uid][0].ends.set()
        elif not (pod.get("spec") or {}).get("nodeName"):
            simulated = SimulatedPod(pod)
            task = asyncio.create_task(self._live(simulated), name=f"pod {pod['metadata']['name']}")
            self._pods[uid] = (simulated, task)

    def _forget(self, uid: str) -> None:
        entry = self._pods.pop(uid, None)
        if entry is not None:
            entry[1].cancel()

    async def _live(self, pod: SimulatedPod) -> None:
        """From binding to removal. An error ends the simulation of this pod alone, such as 404 after its removal."""
        try:
            await self._bind(pod)
            for status in pod.starting():
                await self._write(pod, status)
            try:
                await asyncio.wait_for(pod.ends.wait(), pod.duration_s)
            except asyncio.TimeoutError:
                pod.ends.set()
            for status in pod.ending(_SIGTERM_EXIT_CODE if pod.deleted.is_set() else pod.exit_code):
                await self._write(pod, status)
            # Who deletes a pod that has ended removes it at once; this waits for a deletion from before the last status.
            await pod.deleted.wait()
            options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.metadata["uid"]}}
            await self._send("DELETE", pod.path, options)
        except ApiError as error:
            log.info("pod %s is left alone: %s", pod.metadata["name"], error)

    async def _bind(self, pod: SimulatedPod) -> None:
        names = {name: pod.metadata[name] for name in ("name", "namespace", "uid")}
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": names, "target": target}
        await self._send("POST", f"{pod.path}/binding", body)

    async def _write(self, pod: SimulatedPod, status: Json) -> None:
        body = {"metadata": {"uid": pod.metadata["uid"]}, "status": status}
        await self._send("PATCH", f"{pod.path}/status", body, "application/merge-patch+json")

    async def _send(self, method: str, path: str, body: Json, content_type: str = "application/json") -> None:
        await self._connection.request_object(method, path, body=body, content_type=content_type, accept=_ANSWER)


async def main(namespace: str, ready: Path | None) -> None:
    credentials = await load_credentials()
    async with PodClient(credentials, 2, "kubelet") as api:
        connection = ApiConnection(credentials, CONNECTIONS, "kubelet")
        kubelet = SimulatedKubelet(api, connection, namespace)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, kubelet.end_running)
        try:
            await kubelet.run(ready)
        finally:
            await connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--ready", type=Path, default=None, help="create this file when the pods are watched")
    options = parser.parse_args()
    asyncio.run(main(options.namespace, options.ready))
