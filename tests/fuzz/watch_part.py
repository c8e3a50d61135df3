"""Watch events, lists and answers for a real watcher: it lives on, and reports the end of an honest pod soon afterwards."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st

from podrelay.protocol import identifiers
from podrelay.protocol.mailbox import EXIT_UNUSED
from tests.fuzz.api_part import answers
from tests.fuzz.part import Report, complaints, feed
from tests.fuzz.raw_api import Json, RawApi, document
from tests.fuzz.values import jsons, mutated, nested, raw, to_json
from tests.harness.redis_server import RedisServer
from tests.harness.watcher_rig import WatcherRig

RECOVER_S = 60.0
_LAUNCHES = [str(uuid.UUID(int=number)) for number in range(20)]
_LAUNCHES_EACH = 5
_TIMES = ("2026-11-27T10:00:00Z", "2026-11-27T10:00:05.123456789Z")
_CONTAINER_STATES: tuple[Json, ...] = (
    {"running": {"startedAt": _TIMES[0]}},
    {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "i": ErrImagePull: not found'}},
    {"waiting": {"reason": "ContainerCreating"}},
    {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": _TIMES[0], "finishedAt": _TIMES[1]}},
    {"terminated": {"exitCode": EXIT_UNUSED, "reason": "Error", "finishedAt": _TIMES[1]}},
    {"terminated": {"exitCode": 137, "signal": 9, "reason": "OOMKilled", "message": "m", "finishedAt": _TIMES[1]}},
)


def pod_of(launch_id: str, deployment: str, state: Json, phase: str, **metadata: Any) -> Json:
    """A pod as podrelay makes it, with each field that the watcher reads."""
    return {
        "metadata": {
            "name": identifiers.pod_name("etl", launch_id, 0), "namespace": "default", "uid": f"u-{launch_id}",
            "resourceVersion": "200", "creationTimestamp": _TIMES[0], "deletionGracePeriodSeconds": 30,
            "labels": {
                "podrelay/launch-id": launch_id, "podrelay/attempt": "0", "podrelay/cluster": "default",
                "podrelay/deployment": deployment, "airflow-worker": "7",
            },
            "annotations": {"podrelay/subject": f"ti-{launch_id}", "dag_id": "etl", "task_id": "load", "run_id": "r",
                            "try_number": "1", "map_index": "-1"},
            **metadata,
        },
        "spec": {
            "nodeName": "n", "restartPolicy": "Never",
            "containers": [{"name": "base", "image": "i:1", "restartPolicyRules": [
                {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}],
            "initContainers": [{"name": "init", "image": "i:1", "restartPolicy": "Always"}],
        },
        "status": {
            "phase": phase, "reason": "", "message": "",
            "conditions": [
                {"type": "PodScheduled", "status": "True", "reason": "", "message": "", "lastTransitionTime": _TIMES[0]},
                {"type": "DisruptionTarget", "status": "False", "reason": "EvictionByEvictionAPI"},
            ],
            "containerStatuses": [{"name": "base", "image": "i:1", "state": state, "lastState": {}}],
            "initContainerStatuses": [{"name": "init", "image": "i:1", "state": {"terminated": {"exitCode": 0}}}],
        },
    }  # fmt: skip


def warm_pod_of(launch_id: str, deployment: str, state: Json, phase: str, *, idle: bool, **metadata: Any) -> Json:
    """The warm pod of this launch; idle: before it was assigned."""
    warm_id = uuid.UUID(launch_id).hex
    pod = pod_of(launch_id, deployment, state, phase, **metadata, name=identifiers.warm_pod_name("etl", warm_id))
    labels = pod["metadata"]["labels"]
    labels[identifiers.LABEL_WARM] = warm_id
    if idle:
        labels[identifiers.LABEL_IDLE] = "0123456789abcdef"
        del labels[identifiers.LABEL_LAUNCH_ID], labels[identifiers.LABEL_ATTEMPT]
    return pod


def _events(deployment: str) -> st.SearchStrategy[bytes]:
    phases = st.sampled_from(("Pending", "Running", "Succeeded", "Failed", "Unknown", ""))
    states, ends = st.sampled_from(_CONTAINER_STATES), st.sampled_from((None, *_TIMES))
    own = st.builds(pod_of, st.sampled_from(_LAUNCHES), st.just(deployment), states, phases, deletionTimestamp=ends)
    warm = st.builds(
        warm_pod_of,
        st.sampled_from(_LAUNCHES),
        st.just(deployment),
        states,
        phases,
        idle=st.booleans(),
        deletionTimestamp=ends,
    )
    pods = own | warm
    kinds = st.sampled_from(("ADDED", "MODIFIED", "MODIFIED", "DELETED", "BOOKMARK"))
    event = st.builds(lambda kind, pod: {"type": kind, "object": pod}, kinds, pods)
    common = (
        event.flatmap(mutated) | event | st.builds(lambda kind, value: {"type": kind, "object": value}, kinds, jsons)
    )
    error = st.builds(
        lambda status: {"type": "ERROR", "object": status},
        jsons
        | mutated(
            {"kind": "Status", "code": 410, "reason": "Expired", "message": "m", "details": {"retryAfterSeconds": 0}}
        ),
    )
    broken = raw | st.sampled_from(
        (nested(100_000), nested(100_000, '{"a":'), b'{"type":"ADDED","object":' + nested(50_000) + b"}",
         b'{"type":"ADDED","object":{"metadata":' + nested(100_000, '{"a":') + b"}}", b"[]", b"1", b"null", b"{}",
         b'{"type":"ADDED"}', b'{"object":{}}', b'{"object":{"metadata":{"labels":' + nested(900, '{"a":') + b"}}}")
    )  # fmt: skip
    # A broken line costs a pause, so there are few: Hypothesis prefers the ends of a range.
    return st.integers(0, 999).flatmap(
        lambda chance: broken if chance == 337 else error.map(to_json) if chance == 701 else common.map(to_json)
    )


def _of_another_launch(line: bytes, shift: int) -> bytes:
    """The same event for another launch: what Hypothesis draws is costly."""
    for number, launch_id in enumerate(_LAUNCHES):
        if launch_id.encode() in line:
            other = _LAUNCHES[(number + shift) % len(_LAUNCHES)]
            line = line.replace(launch_id.replace("-", "").encode(), other.replace("-", "").encode())
            return line.replace(launch_id.encode(), other.encode())
    return line


def run(folder: Path, count: int, seed: int) -> Report:
    """Fuzz one watcher process."""
    report = Report("watch", seed)
    (folder / "redis").mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(RedisServer(folder / "redis"))
        api = stack.enter_context(RawApi())
        cluster: Any = SimpleNamespace(kubeconfig=api.kubeconfig(folder))
        rig = WatcherRig(server.url, cluster, folder, "default")
        stack.callback(rig.close)
        process = rig.start()
        _until(lambda: api.watches, 60, "the first watch")
        odd: list[bytes] = []
        api.answer = lambda method, path: odd[0] if odd else document({}, "404 Not Found")

        def take(batch: list[tuple[list[bytes], bytes, bool]]) -> int:
            taken = 0
            for lines, answer, to_list in batch:
                odd[:] = [answer]
                if to_list:
                    api.instead.append(answer)
                for shift in range(_LAUNCHES_EACH):
                    api.push(*(_of_another_launch(line, shift).replace(b"\n", b" ") + b"\n" for line in lines))
                taken += len(lines) * _LAUNCHES_EACH + 1
            deadline = time.monotonic() + 60
            while api.waiting > 100:
                if process.poll() is not None:
                    report.fault(f"the watcher ended with {process.returncode}: {rig.log_of(0)[-600:]}")
                    raise AssertionError("the watcher ended")
                if time.monotonic() > deadline:
                    report.fault("the watcher reads no events for 60 s")
                    raise AssertionError("the watcher reads nothing")
                time.sleep(0.005)
            return taken

        one = st.tuples(
            st.lists(_events(rig.settings.deployment), min_size=1, max_size=12), answers(most_pause_s=1),
            st.integers(0, 999).map(lambda chance: chance == 421),
        )  # fmt: skip
        with contextlib.suppress(AssertionError):
            feed(st.lists(one, min_size=1, max_size=2), take, report, count)
        if process.poll() is None:
            _honest(rig, api, report)
        if process.poll() is not None:
            report.fault(f"the watcher ended with {process.returncode}: {rig.log_of(0)[-600:]}")
        report.wrong += complaints(rig.log_of(0))
    return report


def _honest(rig: WatcherRig, api: RawApi, report: Report) -> None:
    launch_id = str(uuid.uuid4())
    deployment, began_s = rig.settings.deployment, time.monotonic()
    pod = pod_of(launch_id, deployment, _CONTAINER_STATES[0], "Running")
    name = pod["metadata"]["name"]
    rig.redis.hset(
        rig.names.launch(launch_id),
        mapping={
            "state": "created",
            "attempt": "0",
            "namespace": "default",
            "pod": name,
            "uid": pod["metadata"]["uid"],
        },
    )
    rig.redis.zadd(rig.names.live("default"), {launch_id: time.time()})
    api.answer = lambda method, path: document({"kind": "Status", "code": 404, "reason": "NotFound"}, "404 Not Found")
    api.instead.clear()
    api.pods = {name: pod}
    gone = json.dumps(
        {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "old"}}
    )
    lists = api.lists
    api.clear()
    try:
        while api.lists == lists:
            api.push(gone.encode() + b"\n")
            time.sleep(0.5)
            if time.monotonic() - began_s > RECOVER_S:
                raise TimeoutError("a list")
        api.clear()
        ended = pod_of(launch_id, deployment, _CONTAINER_STATES[3], "Succeeded", resourceVersion="300")
        api.pods = {name: ended}
        api.push(to_json({"type": "MODIFIED", "object": ended}) + b"\n")
        _until(
            lambda: any(result.launch_id == launch_id and result.outcome == "succeeded" for result in rig.results()),
            RECOVER_S - (time.monotonic() - began_s), "the report of an honest pod",
        )  # fmt: skip
    except TimeoutError as error:
        report.fault(f"not within {RECOVER_S:g} s: {error}; {rig.log_of(0)[-600:]}")
    report.recovered_s = time.monotonic() - began_s


def _until(condition: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.02)
