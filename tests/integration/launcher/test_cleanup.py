"""Clean-up jobs (delete, done, revoke): by uid, beside launches, and silent when nothing is left to do."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
import uuid
from typing import Any

import pytest
from aiohttp import web

from podrelay.protocol import identifiers
from podrelay.protocol.messages import CleanupAction, CleanupRequest
from podrelay.store.launch_queue import Acknowledgement
from tests.harness.launcher_rig import LauncherRig
from tests.harness.pod_api import status
from tests.harness.waiting import until


def launch_of(what: str) -> str:
    """The launch of the pod that a test calls by this name."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, what))


def pod_of(what: str, attempt: int = 0) -> str:
    return identifiers.pod_name(what, launch_of(what), attempt)


def put_pod(rig: LauncherRig, what: str, uid: str = "u1", deployment: str = "default") -> None:
    labels = {
        identifiers.LABEL_LAUNCH_ID: launch_of(what),
        identifiers.LABEL_ATTEMPT: "0",
        identifiers.LABEL_DEPLOYMENT: deployment,
    }
    rig.api.pods["default", pod_of(what)] = {
        "metadata": {
            "name": pod_of(what), "namespace": "default", "uid": uid, "labels": labels, "resourceVersion": "1",
            "annotations": {identifiers.ANNOTATION_SUBJECT: f"ti-{what}"},
        }
    }  # fmt: skip


def left(rig: LauncherRig) -> set[str]:
    """The names of the pods that still exist."""
    return {name.rpartition("-")[0].rpartition("-")[0] for _, name in rig.api.pods}


def marks(rig: LauncherRig, what: str) -> dict[str, str]:
    labels = rig.api.pods["default", pod_of(what)]["metadata"]["labels"]
    return {label: labels[label] for label in (identifiers.LABEL_DONE, identifiers.LABEL_REVOKED) if label in labels}


def cleanup_of(what: str, action: CleanupAction, **values: Any) -> CleanupRequest:
    return CleanupRequest(
        launch_of(what), action, **({"namespace": "default", "pod": pod_of(what), "uid": "u1"} | values)
    )


def order(rig: LauncherRig, action: CleanupAction, what: str, **values: Any) -> str:
    cleanup = cleanup_of(what, action, **values)
    rig.queue.acknowledge([Acknowledgement(cleanup.launch_id, 0, f"ti-{what}", cleanup=cleanup)])
    return f"rq:job:{identifiers.cleanup_job_id(cleanup.launch_id, 0, action, cleanup.unless_started)}"


def statuses(rig: LauncherRig, jobs: list[str]) -> set[str | None]:
    return {rig.redis.hget(job, "status") for job in jobs}


def test_each_action(rig: LauncherRig) -> None:
    for pod in ("a", "b", "c", "d", "e", "f"):
        put_pod(rig, pod)
    jobs = [
        order(rig, "delete", "a"),
        order(rig, "done", "b"),
        order(rig, "revoke", "c"),
        order(rig, "delete", "d", uid="another pod's"),
        order(rig, "done", "e", uid="another pod's"),
        order(rig, "revoke", "f", uid="another pod's"),
        order(rig, "delete", "gone"),
        order(rig, "done", "gone"),
    ]
    deleted: dict[str, dict[str, str]] = {}

    def note_marks(request: web.Request, _: Any) -> None:
        for what in ("a", "c"):
            if request.method == "DELETE" and request.match_info["name"] == pod_of(what):
                deleted[what] = marks(rig, what)

    rig.api.fault = note_marks

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: statuses(rig, jobs) == {"finished"})

    asyncio.run(scenario())
    assert left(rig) == {"b", "d", "e", "f"}
    assert deleted == {"a": {}, "c": {identifiers.LABEL_REVOKED: "True"}}, "labelled before it is deleted"
    assert marks(rig, "b") == {identifiers.LABEL_DONE: "True"}
    assert marks(rig, "d") == marks(rig, "e") == marks(rig, "f") == {}
    assert rig.in_hand() == 0


def test_a_pod_that_is_kept_loses_its_secret(rig: LauncherRig) -> None:
    """Also one whose first deletion is refused. The pod goes first into its last state, then the Secret."""
    put_pod(rig, "a")
    put_pod(rig, "b")
    name = f"{pod_of('a')}-0123abcd"
    rig.api.pods["default", pod_of("a")]["metadata"]["annotations"] |= {identifiers.ANNOTATION_WORKLOAD_SECRET: name}
    # Users may write annotations, also of their pods.
    rig.api.pods["default", pod_of("b")]["metadata"]["annotations"] |= {
        identifiers.ANNOTATION_WORKLOAD_SECRET: "database-password"
    }
    rig.api.secrets.put("default", name, "database-password")
    refusals = [status(503, "ServiceUnavailable", "no")]
    rig.api.secrets.fault = lambda *_: refusals.pop() if refusals else None
    jobs = [order(rig, "done", "a"), order(rig, "done", "b")]

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: statuses(rig, jobs) == {"finished"})

    asyncio.run(scenario())
    assert left(rig) == {"a", "b"}
    assert marks(rig, "a") == {identifiers.LABEL_DONE: "True"}
    assert {name for _, name in rig.api.secrets.existing} == {"database-password"}
    assert rig.api.secrets.deletes == [name, name]


def test_a_revoked_pod_goes_only_while_no_container_has_started(rig: LauncherRig) -> None:
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
        put_pod(rig, pod, uid="another" if pod == "stranger" else "u1")
        rig.api.pods["default", pod_of(pod)] |= {"status": state}
        rig.api.pods["default", pod_of(pod)]["metadata"]["resourceVersion"] = "7"

    def start_meanwhile(request: web.Request, _: Any) -> None:
        pod = rig.api.pods["default", pod_of("late")]
        if request.method == "DELETE" and request.match_info["name"] == pod_of("late"):
            pod["status"] = states["runs"]
            pod["metadata"]["resourceVersion"] = "99"

    rig.api.fault = start_meanwhile
    jobs = [order(rig, "revoke", pod, unless_started=True) for pod in states]

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: statuses(rig, jobs) == {"finished"})

    asyncio.run(scenario())
    assert left(rig) == {"runs", "starts", "ended", "stranger", "late"}
    assert not marks(rig, "late"), "the watcher ignores labelled pods"


def test_a_thousand_pods_cost_a_thousand_requests(rig: LauncherRig) -> None:
    """Also when acknowledgements are repeated and several launchers serve the queue: no request meets a deleted pod."""
    count = 1000
    asked: list[tuple[str, bool]] = []

    def note(request: web.Request, _: object) -> None:
        name = request.path.rpartition("/")[2]
        asked.append((request.method, ("default", name) in rig.api.pods))

    for number in range(count):
        put_pod(rig, f"p{number}")
    rig.api.fault = note
    orders = [
        Acknowledgement(launch_of(f"p{number}"), 0, f"ti-p{number}", cleanup=cleanup_of(f"p{number}", "delete"))
        for number in range(count)
    ]
    rig.queue.acknowledge(orders)
    rig.queue.acknowledge(orders[:100])

    async def scenario() -> None:
        async with rig.launcher(), rig.launcher():
            await until(lambda: not rig.api.pods, 30)
            rig.queue.acknowledge(orders[100:200])
            await asyncio.sleep(0.5)

    asyncio.run(scenario())
    deletes = [there for method, there in asked if method == "DELETE"]
    assert len(deletes) == count
    assert all(deletes)
    assert {method for method, _ in asked} == {"DELETE"}


CANNOT_DELETE = (
    'pods "p" is forbidden: User "u" cannot delete resource "pods" in API group "" in the namespace "default"'
)


def test_refused_clean_ups_are_tried_again_at_a_low_rate_until_they_work(
    rig: LauncherRig, caplog: pytest.LogCaptureFixture
) -> None:
    """They disturb nothing meanwhile, are logged once, and `status` shows them."""
    from podrelay.cli import status as cli_status

    for number in range(40):
        put_pod(rig, f"p{number}")
    put_pod(rig, "other")
    refusing = True
    # A server whose roles are missing lists them in another order each time.
    missing = itertools.cycle([": RBAC: [a not found, b not found]", ": RBAC: [b not found, a not found]"])
    rig.api.fault = lambda request, _: (
        status(403, "Forbidden", CANNOT_DELETE + next(missing)) if refusing and request.method == "DELETE" else None
    )
    jobs = [order(rig, "delete", f"p{number}") for number in range(40)]
    label = order(rig, "done", "other")

    async def scenario() -> None:
        nonlocal refusing
        async with rig.launcher():
            await until(lambda: rig.api.calls["delete"] and statuses(rig, [label]) == {"finished"})
            requests = rig.offer_many(20)
            await until(lambda: rig.states(requests) == {"created": 20})
            sent = rig.api.calls["delete"]
            assert sent < 40, "those in flight at first"
            await asyncio.sleep(4.0)
            assert rig.api.calls["delete"] - sent <= 5, "then one at a time, ever more rarely"
            (shown,) = cli_status.overview(None, time.time())["refused_cleanups"]
            assert "cannot delete resource" in shown
            refusing = False
            await until(lambda: statuses(rig, jobs) == {"finished"}, 30)
            assert not cli_status.overview(None, time.time())["refused_cleanups"]

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    assert len([record for record in caplog.records if "Clean-up refused" in record.getMessage()]) == 1
    assert [record for record in caplog.records if "work again" in record.getMessage()]


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_no_refusal_of_one_request_ends_a_clean_up(rig: LauncherRig, method: str) -> None:
    """A server that has just started refuses all; a policy or a webhook may refuse one pod for a while."""
    answers = [
        status(403, "Forbidden", 'pods "a" is forbidden: not yet ready to handle request'),
        status(403, "Forbidden", 'admission webhook "w" denied the request: no'),
        status(400, "BadRequest", "bad"),
    ]

    def refuse(request: web.Request, _: Any = None) -> web.Response | None:
        return answers.pop() if answers and request.method == method else None

    rig.api.fault, rig.api.look_fault = refuse, refuse
    put_pod(rig, "a")
    job = order(rig, "revoke", "a", subject="ti-a")

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: statuses(rig, [job]) == {"finished"}, 20)

    asyncio.run(scenario())
    assert not rig.api.pods
    assert not answers


def test_a_failing_server_is_waited_for(rig: LauncherRig) -> None:
    put_pod(rig, "a")
    answers = [status(500, "InternalError", "no"), status(429, "TooManyRequests", "later", retry_after="1")]
    rig.api.fault = lambda request, _: answers.pop() if answers else None
    job = order(rig, "delete", "a")

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: statuses(rig, [job]) == {"finished"})

    asyncio.run(scenario())
    assert not rig.api.pods


def test_a_delete_that_is_refused_for_now_pauses_the_clean_ups_of_every_launcher_and_no_launch(
    rig: LauncherRig,
) -> None:
    for pod in ("a", "b"):
        put_pod(rig, pod)
    deletes: list[float] = []

    def refuse_first(request: web.Request, _: Any) -> web.Response | None:
        if request.method == "DELETE":
            deletes.append(time.monotonic())
            if len(deletes) == 1:
                return status(429, "TooManyRequests", "later", retry_after="2")
        return None

    rig.api.fault = refuse_first

    async def scenario() -> None:
        async with rig.launcher(), rig.launcher():
            first = order(rig, "delete", "a")
            await until(lambda: rig.redis.hget(rig.names.throttle("default"), "cleanup_until"))
            second = order(rig, "delete", "b")
            launches = rig.offer_many(1)
            await until(lambda: rig.states(launches) == {"created": 1})
            assert time.monotonic() - deletes[0] < 1.5
            await until(lambda: statuses(rig, [first, second]) == {"finished"}, 20)

    asyncio.run(scenario())
    assert deletes[1] - deletes[0] >= 2.0
    assert not rig.redis.hget(rig.names.throttle("default"), "failures")


@pytest.mark.parametrize("seats", [1, 5])
def test_few_seats_are_found_and_kept(rig: LauncherRig, seats: int) -> None:
    """Priority and fairness with the limit response Reject: each refusal costs a pause of one second."""
    rig.api.latency_s, rig.api.seats = 0.01, seats
    for number in range(100):
        put_pod(rig, f"p{number}")
    requests = rig.offer_many(100)
    jobs = [order(rig, "delete", f"p{number}") for number in range(100)]

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.states(requests) == {"created": 100} and statuses(rig, jobs) == {"finished"}, 30)

    asyncio.run(scenario())
    assert rig.api.refused <= 40
    assert rig.api.calls["create"] <= 120


def test_launches_and_clean_ups_do_not_starve_each_other(rig: LauncherRig) -> None:
    rig.api.latency_s = 0.05
    for number in range(200):
        put_pod(rig, f"p{number}")
    jobs = [order(rig, "delete", f"p{number}") for number in range(200)]
    requests = rig.offer_many(200)

    async def scenario() -> None:
        async with rig.launcher(launcher_concurrency=8, cleanup_concurrency=8):
            await until(lambda: rig.states(requests).get("created", 0) > 60)
            done = sum(rig.redis.hget(job, "status") == "finished" for job in jobs)
            assert done > 20
            rig.api.latency_s = 0.0
            await until(lambda: rig.states(requests) == {"created": 200} and statuses(rig, jobs) == {"finished"})

    asyncio.run(scenario())


def test_a_conflict_that_is_not_about_the_pods_identity_is_tried_again(rig: LauncherRig) -> None:
    for pod in ("a", "b"):
        put_pod(rig, pod)
    why = 'Operation cannot be fulfilled on pods "a": the object has been modified; please apply your changes again'
    answers = {method: [status(409, "Conflict", why)] for method in ("DELETE", "PATCH")}
    rig.api.fault = lambda request, _: answers[request.method].pop() if answers.get(request.method) else None
    jobs = [order(rig, "delete", "a"), order(rig, "done", "b")]

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: statuses(rig, jobs) == {"finished"})

    asyncio.run(scenario())
    assert left(rig) == {"b"}
    assert marks(rig, "b") == {identifiers.LABEL_DONE: "True"}


def test_a_label_reaches_no_other_pod_of_that_name(rig: LauncherRig) -> None:
    """For the API server, the uid in a patch is a precondition."""
    put_pod(rig, "a", uid="newer")
    job = order(rig, "done", "a", uid="older")

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: statuses(rig, [job]) == {"finished"})

    asyncio.run(scenario())
    assert not marks(rig, "a")


def test_what_the_ledger_was_made_to_say_touches_no_pod_of_another_launch(rig: LauncherRig) -> None:
    """A revocation takes its pod from the ledger, which any client of Redis can write."""
    for what in ("victim", "good"):
        put_pod(rig, what)
    forged = [
        "victim",  # not created by podrelay
        pod_of("victim"),
        identifiers.pod_name("x", launch_of("2"), 1),  # of another attempt
        f"{identifiers.pod_name('x', launch_of('3'), 0)}./../{pod_of('victim')}",
        f"{pod_of('victim')}?x={identifiers.pod_name('x', launch_of('4'), 0)}",
        identifiers.pod_name("x", launch_of("5"), 0) + "0",
    ]
    jobs = [order(rig, "revoke", str(number), pod=pod, uid="") for number, pod in enumerate(forged)]
    jobs += [order(rig, "delete", "d", pod=pod_of("victim"), uid=""), order(rig, "done", "e", pod=pod_of("victim"))]
    jobs.append(order(rig, "revoke", "f", pod=pod_of("victim"), uid="", unless_started=True))
    good = order(rig, "delete", "good")

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: statuses(rig, jobs) == {"failed"} and statuses(rig, [good]) == {"finished"})

    asyncio.run(scenario())
    assert left(rig) == {"victim"}
    assert not marks(rig, "victim")
    assert rig.api.calls == {"delete": 1}
    assert sorted(f"rq:job:{entry['job']}" for entry in rig.quarantined()) == sorted(jobs)
    assert all(entry["why"] for entry in rig.quarantined())
    assert "gAAAA" not in json.dumps(rig.quarantined())


def test_a_revocation_reaches_only_a_pod_that_says_itself_whose_it_is(rig: LauncherRig) -> None:
    """The name matches, but the pod belongs to another deployment or to another task."""
    put_pod(rig, "theirs", deployment="other")
    for what in ("subject", "late", "ours", "waits"):
        put_pod(rig, what)
    jobs = [
        order(rig, "revoke", "theirs", subject="ti-theirs"),
        order(rig, "revoke", "theirs", subject="ti-theirs", unless_started=True),
        order(rig, "revoke", "subject", subject="ti-of-no-row"),
        order(rig, "revoke", "late", subject="", unless_started=True),
    ]
    good = [
        order(rig, "revoke", "ours", subject="ti-ours", uid=""),
        order(rig, "revoke", "waits", subject="ti-waits", unless_started=True),
    ]

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: statuses(rig, jobs) == {"failed"} and statuses(rig, good) == {"finished"})

    asyncio.run(scenario())
    assert left(rig) == {"theirs", "subject", "late"}
    assert not any(marks(rig, what) for what in ("theirs", "subject", "late"))
    assert sorted(f"rq:job:{entry['job']}" for entry in rig.quarantined()) == sorted(jobs)
