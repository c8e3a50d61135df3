"""Clean-up jobs (delete, done, revoke): by uid, beside launches, and silent when nothing is left to do."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from typing import Any

import pytest
from aiohttp import web

from podrelay.protocol import identifiers
from podrelay.protocol.messages import CleanupAction, CleanupRequest
from podrelay.store.launch_queue import Acknowledgement
from tests.harness.pod_api import status
from tests.integration.launcher.conftest import Bench, until


def launch_of(what: str) -> str:
    """The launch of the pod that a test calls by this name."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, what))


def pod_of(what: str, attempt: int = 0) -> str:
    return identifiers.pod_name(what, launch_of(what), attempt)


def put_pod(bench: Bench, what: str, uid: str = "u1", deployment: str = "default") -> None:
    labels = {
        identifiers.LABEL_LAUNCH_ID: launch_of(what),
        identifiers.LABEL_ATTEMPT: "0",
        identifiers.LABEL_DEPLOYMENT: deployment,
    }
    bench.api.pods["default", pod_of(what)] = {
        "metadata": {
            "name": pod_of(what), "namespace": "default", "uid": uid, "labels": labels, "resourceVersion": "1",
            "annotations": {identifiers.ANNOTATION_SUBJECT: f"ti-{what}"},
        }
    }  # fmt: skip


def left(bench: Bench) -> set[str]:
    """The names of the pods that still exist."""
    return {name.rpartition("-")[0].rpartition("-")[0] for _, name in bench.api.pods}


def marks(bench: Bench, what: str) -> dict[str, str]:
    labels = bench.api.pods["default", pod_of(what)]["metadata"]["labels"]
    return {label: labels[label] for label in (identifiers.LABEL_DONE, identifiers.LABEL_REVOKED) if label in labels}


def cleanup_of(what: str, action: CleanupAction, **values: Any) -> CleanupRequest:
    return CleanupRequest(
        launch_of(what), action, **({"namespace": "default", "pod": pod_of(what), "uid": "u1"} | values)
    )


def order(bench: Bench, action: CleanupAction, what: str, **values: Any) -> str:
    cleanup = cleanup_of(what, action, **values)
    bench.queue.acknowledge([Acknowledgement(cleanup.launch_id, 0, f"ti-{what}", cleanup=cleanup)])
    return f"rq:job:{identifiers.cleanup_job_id(cleanup.launch_id, 0, action, cleanup.unless_started)}"


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
    deleted: dict[str, dict[str, str]] = {}

    def note_marks(request: web.Request, _: Any) -> None:
        for what in ("a", "c"):
            if request.method == "DELETE" and request.match_info["name"] == pod_of(what):
                deleted[what] = marks(bench, what)

    bench.api.fault = note_marks

    async def scenario() -> None:
        async with bench.launcher():
            await until(lambda: statuses(bench, jobs) == {"finished"})

    asyncio.run(scenario())
    assert left(bench) == {"b", "d", "e", "f"}
    assert deleted == {"a": {}, "c": {identifiers.LABEL_REVOKED: "True"}}, "labelled before it is deleted"
    assert marks(bench, "b") == {identifiers.LABEL_DONE: "True"}
    assert marks(bench, "d") == marks(bench, "e") == marks(bench, "f") == {}
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
        "late": {"phase": "Pending"},
    }
    for pod, state in states.items():
        put_pod(bench, pod, uid="another" if pod == "stranger" else "u1")
        bench.api.pods["default", pod_of(pod)] |= {"status": state}
        bench.api.pods["default", pod_of(pod)]["metadata"]["resourceVersion"] = "7"

    def start_meanwhile(request: web.Request, _: Any) -> None:
        pod = bench.api.pods["default", pod_of("late")]
        if request.method == "DELETE" and request.match_info["name"] == pod_of("late"):
            pod["status"] = states["runs"]
            pod["metadata"]["resourceVersion"] = "99"

    bench.api.fault = start_meanwhile
    jobs = [order(bench, "revoke", pod, unless_started=True) for pod in states]

    async def scenario() -> None:
        async with bench.launcher():
            await until(lambda: statuses(bench, jobs) == {"finished"})

    asyncio.run(scenario())
    assert left(bench) == {"runs", "starts", "ended", "stranger", "late"}
    assert not marks(bench, "late"), "the watcher ignores labelled pods"


def test_a_thousand_pods_cost_a_thousand_requests(bench: Bench) -> None:
    """Also when acknowledgements are repeated and several launchers serve the queue: no request meets a deleted pod."""
    count = 1000
    asked: list[tuple[str, bool]] = []

    def note(request: web.Request, _: object) -> None:
        name = request.path.rpartition("/")[2]
        asked.append((request.method, ("default", name) in bench.api.pods))

    for number in range(count):
        put_pod(bench, f"p{number}")
    bench.api.fault = note
    orders = [
        Acknowledgement(launch_of(f"p{number}"), 0, f"ti-p{number}", cleanup=cleanup_of(f"p{number}", "delete"))
        for number in range(count)
    ]
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
    assert len([record for record in caplog.records if "Clean-up refused" in record.getMessage()]) == 1


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
    assert left(bench) == {"b"}
    assert marks(bench, "b") == {identifiers.LABEL_DONE: "True"}


def test_a_label_reaches_no_other_pod_of_that_name(bench: Bench) -> None:
    """For the API server, the uid in a patch is a precondition."""
    put_pod(bench, "a", uid="newer")
    job = order(bench, "done", "a", uid="older")

    async def scenario() -> None:
        async with bench.launcher():
            await until(lambda: statuses(bench, [job]) == {"finished"})

    asyncio.run(scenario())
    assert not marks(bench, "a")


def test_what_the_ledger_was_made_to_say_touches_no_pod_of_another_launch(bench: Bench) -> None:
    """A revocation takes its pod from the ledger, which any client of Redis can write."""
    for what in ("victim", "good"):
        put_pod(bench, what)
    forged = [
        "victim",  # not created by podrelay
        pod_of("victim"),
        identifiers.pod_name("x", launch_of("2"), 1),  # of another attempt
        f"{identifiers.pod_name('x', launch_of('3'), 0)}./../{pod_of('victim')}",
        f"{pod_of('victim')}?x={identifiers.pod_name('x', launch_of('4'), 0)}",
        identifiers.pod_name("x", launch_of("5"), 0) + "0",
    ]
    jobs = [order(bench, "revoke", str(number), pod=pod, uid="") for number, pod in enumerate(forged)]
    jobs += [order(bench, "delete", "d", pod=pod_of("victim"), uid=""), order(bench, "done", "e", pod=pod_of("victim"))]
    jobs.append(order(bench, "revoke", "f", pod=pod_of("victim"), uid="", unless_started=True))
    good = order(bench, "delete", "good")

    async def scenario() -> None:
        async with bench.launcher():
            await until(lambda: statuses(bench, jobs) == {"failed"} and statuses(bench, [good]) == {"finished"})

    asyncio.run(scenario())
    assert left(bench) == {"victim"}
    assert not marks(bench, "victim")
    assert bench.api.calls == {"delete": 1}
    assert sorted(f"rq:job:{entry['job']}" for entry in bench.quarantined()) == sorted(jobs)
    assert all(entry["why"] for entry in bench.quarantined())
    assert "gAAAA" not in json.dumps(bench.quarantined())


def test_a_revocation_reaches_only_a_pod_that_says_itself_whose_it_is(bench: Bench) -> None:
    """The name matches, but the pod belongs to another deployment or to another task."""
    put_pod(bench, "theirs", deployment="other")
    for what in ("subject", "late", "ours", "waits"):
        put_pod(bench, what)
    jobs = [
        order(bench, "revoke", "theirs", subject="ti-theirs"),
        order(bench, "revoke", "theirs", subject="ti-theirs", unless_started=True),
        order(bench, "revoke", "subject", subject="ti-of-no-row"),
        order(bench, "revoke", "late", subject="", unless_started=True),
    ]
    good = [
        order(bench, "revoke", "ours", subject="ti-ours", uid=""),
        order(bench, "revoke", "waits", subject="ti-waits", unless_started=True),
    ]

    async def scenario() -> None:
        async with bench.launcher():
            await until(lambda: statuses(bench, jobs) == {"failed"} and statuses(bench, good) == {"finished"})

    asyncio.run(scenario())
    assert left(bench) == {"theirs", "subject", "late"}
    assert not any(marks(bench, what) for what in ("theirs", "subject", "late"))
    assert sorted(f"rq:job:{entry['job']}" for entry in bench.quarantined()) == sorted(jobs)
