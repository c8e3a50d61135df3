"""Clean-up jobs: delete, done, revoke; beside launches, by uid, and without noise where there is nothing left to do."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from aiohttp import web

from podrelay import names
from podrelay.launch_queue import Acknowledgement
from podrelay.wire import CleanupAction, CleanupRequest
from tests.integration.launch.conftest import Bench, until
from tests.integration.launch.pod_api import status


def put_pod(bench: Bench, name: str, uid: str = "u1") -> None:
    bench.api.pods["default", name] = {"metadata": {"name": name, "namespace": "default", "uid": uid, "labels": {}}}


def order(bench: Bench, action: CleanupAction, pod: str, uid: str = "u1", unless_started: bool = False) -> str:
    request = bench.request()
    cleanup = CleanupRequest(request.launch_id, action, "default", pod, uid, unless_started=unless_started)
    bench.queue.acknowledge([Acknowledgement(request.launch_id, 0, request.subject, cleanup=cleanup)])
    return f"rq:job:{request.launch_id}_0-{'pending-' if unless_started else ''}{action}"


def statuses(bench: Bench, jobs: list[str]) -> set[str | None]:
    return {bench.redis.hget(job, "status") for job in jobs}


def test_each_action(bench: Bench) -> None:
    for pod in ("a", "b", "c", "d", "e", "f"):
        put_pod(bench, pod)
    jobs = [
        order(bench, "delete", "a"),
        order(bench, "done", "b"),
        order(bench, "revoke", "c"),
        order(bench, "delete", "d", uid="another pod's"),
        order(bench, "done", "e", uid="another pod's"),
        order(bench, "revoke", "f", uid="another pod's"),
        order(bench, "delete", "gone"),
        order(bench, "done", "gone"),
    ]

    async def scenario() -> None:
        async with bench.launcher():
            await until(lambda: statuses(bench, jobs) == {"finished"})

    asyncio.run(scenario())
    assert {name for _, name in bench.api.pods} == {"b", "d", "e", "f"}
    assert bench.api.pods["default", "b"]["metadata"]["labels"] == {names.LABEL_DONE: "True"}
    assert bench.in_hand() == 0


def test_a_revoked_pod_goes_only_while_no_container_has_started(bench: Bench) -> None:
    states = {
        "waits": {"phase": "Pending", "containerStatuses": [{"name": "base", "state": {"waiting": {}}}]},
        "unscheduled": {"phase": "Pending"},
        "runs": {"phase": "Running", "containerStatuses": [{"name": "base", "state": {"running": {"startedAt": "x"}}}]},
        "starts": {
            "phase": "Pending",
            "containerStatuses": [{"name": "base", "state": {"running": {"startedAt": "x"}}}],
        },
        "ended": {"phase": "Failed", "containerStatuses": [{"name": "base", "state": {"terminated": {"exitCode": 1}}}]},
        "stranger": {"phase": "Pending"},
        "comes late": {"phase": "Pending"},
    }
    for pod, state in states.items():
        put_pod(bench, pod, uid="another" if pod == "stranger" else "u1")
        bench.api.pods["default", pod] |= {"status": state}
        bench.api.pods["default", pod]["metadata"]["resourceVersion"] = "7"

    def start_meanwhile(request: web.Request, _: Any) -> None:
        pod = bench.api.pods["default", "comes late"]
        if request.method == "DELETE" and request.match_info["name"] == "comes late":
            pod["status"] = states["runs"]
            pod["metadata"]["resourceVersion"] = "99"

    bench.api.fault = start_meanwhile
    jobs = [order(bench, "revoke", pod, unless_started=True) for pod in states]

    async def scenario() -> None:
        async with bench.launcher():
            await until(lambda: statuses(bench, jobs) == {"finished"})

    asyncio.run(scenario())
    assert {name for _, name in bench.api.pods} == {"runs", "starts", "ended", "stranger", "comes late"}
    assert not bench.api.pods["default", "comes late"]["metadata"]["labels"], (
        "the watcher follows no pod that is marked"
    )


def test_a_thousand_pods_cost_a_thousand_requests(bench: Bench) -> None:
    """Also where each acknowledgement is repeated, and several launchers serve the queue; none finds its pod gone."""
    count, requests = 1000, [bench.request(number) for number in range(1000)]
    asked: list[tuple[str, bool]] = []

    def note(request: web.Request, _: object) -> None:
        name = request.path.rpartition("/")[2]
        asked.append((request.method, ("default", name) in bench.api.pods))

    for number in range(count):
        put_pod(bench, f"p{number}")
    bench.api.fault = note
    orders = [
        Acknowledgement(request.launch_id, 0, request.subject,
                        cleanup=CleanupRequest(request.launch_id, "delete", "default", f"p{number}", "u1"))
        for number, request in enumerate(requests)
    ]  # fmt: skip
    bench.queue.acknowledge(orders)
    bench.queue.acknowledge(orders[:100])

    async def scenario() -> None:
        async with bench.launcher(), bench.launcher():
            await until(lambda: not bench.api.pods, 30)
            bench.queue.acknowledge(orders[100:200])
            await asyncio.sleep(0.5)

    asyncio.run(scenario())
    deletes = [there for method, there in asked if method == "DELETE"]
    assert len(deletes) == count
    assert all(deletes)
    assert {method for method, _ in asked} == {"DELETE"}


def test_a_refusal_is_told_once_and_disturbs_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(5):
        put_pod(bench, f"p{number}")
    bench.api.fault = lambda request, _: (
        status(403, "Forbidden", "pods is forbidden: cannot delete") if request.method == "DELETE" else None
    )
    jobs = [order(bench, "delete", f"p{number}") for number in range(5)]
    requests = bench.offer_many(20)

    async def scenario() -> None:
        async with bench.launcher():
            await until(lambda: statuses(bench, jobs) == {"failed"} and bench.states(requests) == {"created": 20})

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    assert len([record for record in caplog.records if "Clean-up is refused" in record.getMessage()]) == 1


def test_a_failing_server_is_waited_for(bench: Bench) -> None:
    put_pod(bench, "a")
    answers = [status(500, "InternalError", "no"), status(429, "TooManyRequests", "later", retry_after="1")]
    bench.api.fault = lambda request, _: answers.pop() if answers else None
    job = order(bench, "delete", "a")

    async def scenario() -> None:
        async with bench.launcher():
            await until(lambda: statuses(bench, [job]) == {"finished"})

    asyncio.run(scenario())
    assert not bench.api.pods


def test_launches_and_clean_ups_do_not_starve_each_other(bench: Bench) -> None:
    bench.api.latency_s = 0.05
    for number in range(200):
        put_pod(bench, f"p{number}")
    jobs = [order(bench, "delete", f"p{number}") for number in range(200)]
    requests = bench.offer_many(200)

    async def scenario() -> None:
        async with bench.launcher(launcher_concurrency=8, cleanup_concurrency=8):
            await until(lambda: bench.states(requests).get("created", 0) > 60)
            done = sum(bench.redis.hget(job, "status") == "finished" for job in jobs)
            assert done > 20
            bench.api.latency_s = 0.0
            await until(lambda: bench.states(requests) == {"created": 200} and statuses(bench, jobs) == {"finished"})

    asyncio.run(scenario())


def test_a_conflict_that_is_not_about_the_pods_identity_is_tried_again(bench: Bench) -> None:
    for pod in ("a", "b"):
        put_pod(bench, pod)
    why = 'Operation cannot be fulfilled on pods "a": the object has been modified; please apply your changes again'
    answers = {method: [status(409, "Conflict", why)] for method in ("DELETE", "PATCH")}
    bench.api.fault = lambda request, _: answers[request.method].pop() if answers.get(request.method) else None
    jobs = [order(bench, "delete", "a"), order(bench, "done", "b")]

    async def scenario() -> None:
        async with bench.launcher():
            await until(lambda: statuses(bench, jobs) == {"finished"})

    asyncio.run(scenario())
    assert [pod["metadata"]["labels"] for pod in bench.api.pods.values()] == [{names.LABEL_DONE: "True"}]


def test_a_label_reaches_no_other_pod_of_that_name(bench: Bench) -> None:
    """The uid inside a patch is a precondition to the API server."""
    put_pod(bench, "a", uid="newer")
    job = order(bench, "done", "a", uid="older")

    async def scenario() -> None:
        async with bench.launcher():
            await until(lambda: statuses(bench, [job]) == {"finished"})

    asyncio.run(scenario())
    assert bench.api.pods["default", "a"]["metadata"]["labels"] == {}
