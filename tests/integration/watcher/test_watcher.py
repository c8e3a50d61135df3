"""A watcher on a real local cluster and a real Redis: what becomes of pods is published, each end exactly once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
import redis
from aiohttp import web

import podrelay
from podrelay.store.overview import read_overview
from tests.harness.scripted_server import answers, lists, scripted, streams
from tests.harness.waiting import until
from tests.harness.watcher_rig import WatcherRig


def run(test: Awaitable[None], seconds: float = 90.0) -> None:
    asyncio.run(asyncio.wait_for(test, seconds))


def test_a_pods_life(rig: WatcherRig) -> None:
    async def test() -> None:
        async with rig.watching():
            good, bad = rig.launch(lasts_s=0.3), rig.launch(lasts_s=0.3, exit_code=3)
            await until(lambda: len(rig.ends()) == 2)
            assert [result.outcome for result in rig.results(good)][-2:] == ["started", "succeeded"]
            end = rig.end_of(bad)
            assert end is not None
            assert (end.outcome, end.exit_code, end.container, end.failure_class) == (
                "failed",
                3,
                "base",
                "application",
            )
            ledger = rig.ledger(bad)
            assert (ledger["state"], ledger["started"], ledger["uid"]) == ("finished", "1", bad.uid)
            assert float(ledger["t_scheduled"]) <= float(ledger["t_started"]) <= float(ledger["t_finished"])
            assert rig.redis.zcard(rig.names.unacknowledged) == 2
            # A clean-up afterwards publishes nothing.
            rig.delete(good)
            rig.label(bad, airflow_executor_done="True")
            await asyncio.sleep(0.5)
            assert rig.ends() == {good.launch_id: 1, bad.launch_id: 1}
        assert rig.watch()["leader"] == ""

    run(test())


def test_the_leader_says_what_its_pods_do(rig: WatcherRig) -> None:
    client = redis.Redis.from_url(rig.settings.redis_url)

    def seen() -> Any:
        return read_overview(client, rig.names, "default", time.time())

    async def test() -> None:
        async with rig.watching():
            runs, ended = rig.launch(), rig.launch(lasts_s=0.3)
            await until(lambda: seen()["pods"] == {"starting": 0, "running": 1, "ending": 1}, what=str(seen()["pods"]))
            await until(lambda: seen()["watcher"]["bookmark_s_ago"] is not None)
            watcher = seen()["watcher"]
            assert (watcher["version"], watcher["pods"]) == (podrelay.__version__, 2)
            assert 0.0 <= watcher["lag_s"] < 10.0
            assert rig.end_of(runs) is None and rig.end_of(ended) is not None
        assert seen()["pods"]["running"] is None, "nobody leads"

    run(test())


ENDINGS: dict[str, tuple[dict[str, Any], tuple[str, int | None, str]]] = {
    "OOMKilled": ({"exit_code": 137, "reason": "OOMKilled"}, ("OOMKilled", 137, "application")),
    "Evicted": ({"exit_code": 137, "pod_reason": "Evicted", "pod_message": "disk"}, ("Evicted", 137, "infrastructure")),
    "StartError": (
        {"exit_code": 128, "reason": "StartError", "message": "no such file"},
        ("StartError", 128, "configuration"),
    ),
    "node shutdown": ({"exit_code": 143, "pod_reason": "Terminated"}, ("Terminated", 143, "infrastructure")),
    "preemption": (
        {
            "exit_code": 143,
            "conditions": [{"type": "DisruptionTarget", "reason": "PreemptionByScheduler", "message": "m"}],
        },
        ("PreemptionByScheduler", 143, "infrastructure"),
    ),
}


def test_reasons(rig: WatcherRig) -> None:
    async def test() -> None:
        async with rig.watching():
            launches = {name: rig.launch() for name in ENDINGS}
            await until(lambda: rig.said("started") == len(ENDINGS))
            for name, launch in launches.items():
                rig.end(launch, **ENDINGS[name][0])
            await until(lambda: len(rig.ends()) == len(ENDINGS))
            for name, launch in launches.items():
                end = rig.end_of(launch)
                assert end is not None
                assert (end.reason, end.exit_code, end.failure_class) == ENDINGS[name][1], name
                assert end.node

    run(test())


def test_deletions_from_outside(rig: WatcherRig) -> None:
    async def test() -> None:
        async with rig.watching():
            running, forced, revoked, waiting = (rig.launch() for _ in range(4))
            await until(lambda: rig.said("started") == 4)
            rig.label(revoked, airflow_pod_revoked="True")
            for launch in (forced, revoked):
                rig.delete(launch)
            rig.vanish(running)
            rig.delete(waiting, grace_s=1)
            await until(lambda: len(rig.ends()) == 3)
            for launch in (running, forced, waiting):
                end = rig.end_of(launch)
                assert end is not None
                assert (end.outcome, end.failure_class) == ("failed", "infrastructure")
                assert end.reason in ("PodDeleted", "PodVanished")
            assert revoked.launch_id not in rig.ends()

    run(test())


def test_pods_that_ended_while_nobody_watched(rig: WatcherRig) -> None:
    async def test() -> None:
        launches = [rig.launch(lasts_s=0.1) for _ in range(20)]
        vanished = rig.launch(created_s=time.time() - 60)
        rig.vanish(vanished)
        young = rig.launch()
        rig.vanish(young)
        async with rig.watching():
            await until(lambda: len(rig.ends()) == 21)
            end = rig.end_of(vanished)
            assert end is not None
            assert (end.reason, end.failure_class) == ("PodVanished", "infrastructure")
            assert set(rig.ends()) == {launch.launch_id for launch in [*launches, vanished]}
        async with rig.watching():  # a restarted watcher publishes nothing twice
            await asyncio.sleep(0.5)
        assert set(rig.ends().values()) == {1}
        assert young.launch_id not in rig.ends()  # the clocks may differ, so that a later comparison decides

    run(test())


def gap_410(rig: WatcherRig) -> None:
    rig.cluster.control("compact")
    rig.cluster.control("drop-streams")


GAPS = {
    "410": ([{"verbs": ["list", "watch"], "reset": True}], gap_410),
    "injected 410": (
        [{"verbs": ["watch"], "gone": True, "count": 2}],
        lambda rig: rig.cluster.control("drop-streams"),
    ),
    "silence": ([{"verbs": ["watch"], "silence": True}], lambda rig: None),
    "no packets": (
        [{"verbs": ["list", "watch"], "hang": True}, {"verbs": ["watch"], "silence": True, "also_new_streams": True}],
        lambda rig: None,
    ),
    "truncated": ([{"verbs": ["watch"], "truncate_stream": True, "count": 1}], lambda rig: None),
    "server errors": (
        [{"verbs": ["list", "watch"], "status": 503, "count": 3}],
        lambda rig: rig.cluster.control("drop-streams"),
    ),
}


@pytest.mark.parametrize("name", GAPS)
def test_gaps(rig: WatcherRig, name: str) -> None:
    """Pods end, and some vanish, while the watch is broken; afterwards every end is known, once."""

    async def test() -> None:
        async with rig.watching():
            launches = [rig.launch(created_s=time.time() - 30) for _ in range(12)]
            await until(lambda: rig.said("started") == 12)
            rules, gap = GAPS[name]
            rig.cluster.faults(*rules)
            gap(rig)
            for launch in launches[:8]:
                rig.end(launch)
            for launch in launches[8:]:
                rig.vanish(launch)
            if name == "410":  # the versions of all this are forgotten before the watcher comes back
                rig.cluster.control("compact")
                rig.cluster.faults()
            if name == "no packets":  # longer than silence is borne: new requests meet the same wall
                await asyncio.sleep(5.0)
                rig.cluster.faults()
            await until(lambda: len(rig.ends()) == 12, 20)
            assert set(rig.ends().values()) == {1}

    run(test())


def test_an_image_that_cannot_be_pulled(rig: WatcherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fatal after the grace period, not before: what recovers in time has not failed."""
    fatal = "AIRFLOW__KUBERNETES_EXECUTOR__WORKER_POD_PENDING_FATAL_CONTAINER_STATE_REASONS"
    monkeypatch.setenv(fatal, "CreateContainerConfigError, ErrImagePull")

    def image(name: str) -> dict[str, Any]:
        return {"spec": {"containers": [{"name": "base", "image": name}]}}

    async def test() -> None:
        async with rig.watching(pending_grace_s=2.0):
            message = "manifest unknown"
            wrong, blip = ({"pattern": f"repo/{name}:*", "message": message} for name in ("wrong", "blip"))
            rig.cluster.faults(images=[wrong, blip])
            began = time.monotonic()
            lost, saved = rig.launch(**image("repo/wrong:1")), rig.launch(lasts_s=0.1, **image("repo/blip:1"))
            await until(lambda: rig.results(lost) and rig.results(saved))
            waiting_report = rig.results(lost)[0]
            assert (waiting_report.outcome, waiting_report.image, waiting_report.failure_class) == (
                "pending",
                "repo/wrong:1",
                "configuration",
            )
            assert message in waiting_report.message
            rig.cluster.faults(images=[wrong])
            end = await until(lambda: rig.end_of(lost))
            assert 2.0 <= time.monotonic() - began < 6.0
            assert (end.outcome, end.image, end.failure_class) == ("failed", "repo/wrong:1", "configuration")
            assert end.reason in ("ErrImagePull", "ImagePullBackOff")
            assert message in end.message or "Back-off" in end.message
            good = await until(lambda: rig.end_of(saved), 25)
            assert good.outcome == "succeeded"
            assert len(rig.results(lost)) <= 3  # not one row per event

    run(test())


def test_no_node_fits(rig: WatcherRig) -> None:
    async def test() -> None:
        async with rig.watching():
            launch = rig.launch(spec={"nodeSelector": {"gpu": "yes"}})
            await until(lambda: rig.results(launch))
            waiting_report = rig.results(launch)[0]
            assert (waiting_report.outcome, waiting_report.reason) == ("pending", "Unschedulable")
            assert "node" in waiting_report.message
            assert rig.ledger(launch)["reason"] == "Unschedulable"
            rig.delete(launch)
            end = await until(lambda: rig.end_of(launch))
            assert (end.reason, end.phase, end.failure_class) == ("PodDeleted", "Pending", "infrastructure")
            assert "started" not in rig.ledger(launch)

    run(test())


def test_what_only_kubernetes_events_show(rig: WatcherRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing volume leaves a pod in ContainerCreating and its status does not say why."""
    labels = {"podrelay/launch-id": "l-1", "podrelay/attempt": "0"}
    waiting = {
        "metadata": {"name": "p", "namespace": rig.namespace, "uid": "u", "labels": labels},
        "spec": {"containers": [{"name": "base"}]},
        "status": {"phase": "Pending"},
    }
    event = {"type": "Warning", "reason": "FailedMount", "message": 'secret "db" not found'}

    async def step(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/events"):
            assert "involvedObject.name=p,involvedObject.uid=u" in request.query["fieldSelector"]
            return await answers({"items": [event]})(request)
        return await (streams(then="hang") if request.query.get("watch") else lists(waiting))(request)

    async def test() -> None:
        async with scripted(step) as (script, _):
            kubeconfig = tmp_path / "scripted"
            kubeconfig.write_text(
                "{apiVersion: v1, kind: Config, current-context: c, users: [{name: u, user: {}}],"
                f" clusters: [{{name: c, cluster: {{server: '{script.url}'}}}}],"
                " contexts: [{name: c, context: {cluster: c, user: u}}]}"
            )
            monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE", str(kubeconfig))
            async with rig.watching():
                await until(rig.results, 15)
                waiting_report = rig.results()[0]
                assert (waiting_report.outcome, waiting_report.reason, waiting_report.message) == (
                    "pending",
                    "FailedMount",
                    'secret "db" not found',
                )

    run(test())


def test_pods_that_are_not_ours_are_skipped(rig: WatcherRig, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with rig.watching():
            rig.launch(ledger=False, labels={"podrelay/attempt": "x"})
            rig.launch(ledger=False, labels={"podrelay/launch-id": "a_b.c"})
            other = rig.launch(lasts_s=0.2)
            await until(lambda: rig.end_of(other))
            await asyncio.sleep(0.3)
        assert len([record for record in caplog.records if "Skipping pod" in record.getMessage()]) == 2
        assert set(rig.ends()) == {other.launch_id}

    with caplog.at_level("WARNING"):
        run(test())


def test_flushall(rig: WatcherRig) -> None:
    """Redis loses everything: ledger and results are rebuilt from the pods, including those that no scheduler had read."""

    async def test() -> None:
        async with rig.watching():
            alive, done, deleted = rig.launch(), rig.launch(), rig.launch()
            await until(lambda: rig.said("started") == 3)
            rig.end(done)
            rig.delete(deleted)
            await until(lambda: len(rig.ends()) == 2)
            rig.redis.flushall()
            rig.redis.script_flush()
            await until(lambda: len(rig.ends()) == 2, what="both ends again")
            await until(lambda: rig.ledger(alive).get("state") == "started")
            ledger = rig.ledger(alive)
            assert (ledger["owner"], ledger["subject"], ledger["cluster"]) == ("7", f"ti-{alive.launch_id}", "default")
            assert (ledger["pod"], ledger["uid"], ledger["kind"]) == (alive.pod, alive.uid, "task")
            assert ledger["key"] == '["etl", "load", "r", 1, -1]'
            assert rig.ends() == {done.launch_id: 1, deleted.launch_id: 1}

    run(test())


def test_redis_away(redis_server: Any, rig: WatcherRig) -> None:
    """What ends while Redis hangs is published when it is back."""

    async def test() -> None:
        async with rig.watching():
            launches = [rig.launch() for _ in range(5)]
            await until(lambda: rig.said("started") == 5)
            redis_server.pause()
            try:
                for launch in launches:
                    rig.end(launch)
                await asyncio.sleep(3.0)
            finally:
                redis_server.resume()
            await until(lambda: len(rig.ends()) == 5)
            assert set(rig.ends().values()) == {1}

    run(test())


def test_pods_of_a_namespace_that_is_not_watched_are_followed(rig: WatcherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked up one by one: each state is reported once, seconds late, and a fatal reason to wait ends the wait."""
    monkeypatch.setattr("podrelay_workers.watcher.leader.COMPARE_S", 0.3)
    monkeypatch.setattr("podrelay_workers.watcher.leader.COMPARE_UNWATCHED_S", 0.3)

    async def test() -> None:
        rig.cluster.faults(images=[{"pattern": "no/such:*", "message": "no such image"}])
        async with rig.watching(pending_grace_s=1.0):
            before = time.time() - 60
            fatal = {"containers": [{"name": "base", "image": "no/such:1"}]}
            ends = rig.launch(lasts_s=1.5, namespace="default", created_s=before)
            waits = rig.launch(namespace="default", created_s=before, spec=fatal)
            await until(lambda: rig.end_of(ends) and rig.end_of(waits), 20)
            await asyncio.sleep(1.0)
            outcomes = [result.outcome for result in rig.results(ends)]
            assert outcomes == ["started", "succeeded"]
            assert rig.results(waits)[-1].outcome == "failed"

    run(test())


def test_a_manipulated_ledger_ends_nothing(rig: WatcherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger may name a wrong place for a running pod, or the pod of another deployment: neither is an end."""
    monkeypatch.setattr("podrelay_workers.watcher.leader.COMPARE_S", 0.3)
    monkeypatch.setattr("podrelay_workers.watcher.leader.COMPARE_UNWATCHED_S", 0.3)

    async def test() -> None:
        before = time.time() - 60
        async with rig.watching():
            renamed, moved, nowhere = (rig.launch(created_s=before) for _ in range(3))
            theirs = rig.launch(lasts_s=0.1, created_s=before, labels={"podrelay/deployment": "another"})
            await until(lambda: rig.said("started") == 3)
            for launch, lie in ((renamed, {"pod": "no-such-pod"}), (moved, {"namespace": "default"}),
                                (nowhere, {"namespace": rig.namespace, "uid": "another"})):  # fmt: skip
                rig.redis.hset(rig.names.launch(launch.launch_id), mapping=lie)
            vanished = rig.launch(created_s=before, ledger=False)
            rig.vanish(vanished)
            rig.redis.hset(rig.names.launch(vanished.launch_id), mapping={
                "state": "created", "attempt": "0", "namespace": rig.namespace, "pod": vanished.pod})  # fmt: skip
            await asyncio.sleep(1.0)
            rig.redis.zadd(rig.names.live("default"), {vanished.launch_id: before})
            await until(lambda: rig.end_of(vanished))
            assert set(rig.ends()) == {vanished.launch_id}
            assert not rig.results(theirs)
            quarantined = [fields["launch"] for _, fields in rig.redis.xrange(rig.names.quarantine)]
            assert quarantined == [renamed.launch_id]

    run(test())


def test_a_refused_namespace_does_not_stop_the_others(rig: WatcherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__MULTI_NAMESPACE_MODE", "True")
    namespaces = f"{rig.namespace}-x, {rig.namespace} ,nowhere-{rig.namespace}"
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__MULTI_NAMESPACE_MODE_NAMESPACE_LIST", namespaces)
    other = f"{rig.namespace}-x"
    rig.cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": other}})

    async def test() -> None:
        rig.cluster.faults(
            {"verbs": ["list"], "namespace": other, "status": 403, "reason": "Forbidden", "message": "no"}
        )
        async with rig.watching():
            refused, seen = rig.launch(lasts_s=0.1, namespace=other), rig.launch(lasts_s=0.1)
            await until(lambda: rig.end_of(seen))
            assert rig.end_of(refused) is None
            await until(lambda: other in rig.watch().get("trouble", ""))
            rig.cluster.faults()
            await until(lambda: rig.end_of(refused), 20)
            assert set(rig.ends().values()) == {1}
            # A namespace that is not watched: its pods are looked up after each list.
            stray = rig.launch(lasts_s=0.1, namespace="default", created_s=time.time() - 60)
            rig.cluster.control("compact")
            rig.cluster.control("drop-streams")
            await until(lambda: rig.results(stray))

    run(test())


def test_the_grace_of_a_fatal_wait_outlives_its_leader(rig: WatcherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    fatal = "AIRFLOW__KUBERNETES_EXECUTOR__WORKER_POD_PENDING_FATAL_CONTAINER_STATE_REASONS"
    monkeypatch.setenv(fatal, "ErrImagePull")

    async def test() -> None:
        rig.cluster.faults(images=[{"pattern": "repo/wrong:*", "message": "manifest unknown"}])
        async with rig.watching(pending_grace_s=6.0):
            lost = rig.launch(
                spec={"containers": [{"name": "base", "image": "repo/wrong:1"}], "restartPolicy": "Never"}
            )
            await until(lambda: rig.results(lost))
            began = time.monotonic()
            await asyncio.sleep(4.0)
        since = rig.ledger(lost)["t_wait"]
        async with rig.watching(pending_grace_s=6.0):
            await until(lambda: rig.end_of(lost), 5.0)
            assert time.monotonic() - began >= 5.0
            assert rig.ledger(lost)["t_wait"] == since

    run(test())


def test_a_pod_replaced_under_its_name_in_a_gap(rig: WatcherRig) -> None:
    """The launch whose pod was taken away is over; the other launch, whose pod has its name now, goes on."""

    async def test() -> None:
        async with rig.watching():
            before = rig.launch()
            await until(lambda: rig.said("started") == 1)
            rig.cluster.faults({"verbs": ["list", "watch"], "reset": True})
            rig.cluster.control("drop-streams")
            rig.vanish(before)
            pods = f"/api/v1/namespaces/{rig.namespace}/pods"
            after = rig.launch(name=before.pod)
            assert after.pod == before.pod
            rig.cluster.control("compact")
            rig.cluster.faults()
            end = await until(lambda: rig.end_of(before), 20)
            assert (end.reason, end.failure_class) == ("PodVanished", "infrastructure")
            assert rig.cluster.call("GET", f"{pods}/{after.pod}")["metadata"]["uid"] == after.uid
            rig.end(after)
            await until(lambda: rig.end_of(after))

    run(test())


def test_each_step_of_a_launch_is_a_metric(rig: WatcherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    timers: dict[str, float] = {}

    class Recorder:
        @staticmethod
        def timing(name: str, milliseconds: float, tags: Any = None) -> None:
            timers[name] = milliseconds

        @staticmethod
        def incr(name: str, count: int, tags: Any = None) -> None:
            """Reports are counted beside it."""

    monkeypatch.setattr("airflow.providers.common.compat.sdk.Stats", Recorder)
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")

    async def test() -> None:
        async with rig.watching():
            launch = rig.launch(lasts_s=0.3)
            created_s = float(rig.ledger(launch)["t_created"])
            handed = {"t_offered": created_s - 1.0, "t_claimed": created_s - 0.25}
            rig.redis.hset(rig.names.launch(launch.launch_id), mapping=handed)
            await until(lambda: "podrelay.lifecycle.reported" in timers)

    run(test())
    assert {name.rpartition(".")[2] for name in timers} == {
        "claimed", "created", "scheduled", "started", "finished", "reported",
    }  # fmt: skip
    assert timers["podrelay.lifecycle.claimed"] == pytest.approx(750.0, abs=1.0)
    assert timers["podrelay.lifecycle.created"] == pytest.approx(250.0, abs=1.0)
    assert all(0.0 <= milliseconds < 10_000.0 for milliseconds in timers.values())


def test_thirty_namespaces_of_which_one_is_refused(rig: WatcherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of one namespace each, as a Role allows; the refused one is reported and retried, and disturbs no other."""
    namespaces = [f"{rig.namespace}-{number}" for number in range(30)]
    for namespace in namespaces:
        rig.cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__MULTI_NAMESPACE_MODE", "True")
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__MULTI_NAMESPACE_MODE_NAMESPACE_LIST", ",".join(namespaces))
    refused = {"namespace": namespaces[7], "status": 403, "reason": "Forbidden", "message": "no"}

    async def test() -> None:
        rig.cluster.faults({"verbs": ["list", "watch"], **refused})
        since = rig.cluster.control("audit", method="GET")["entries"]
        async with rig.watching():
            launches = {namespace: rig.launch(lasts_s=0.2, namespace=namespace) for namespace in namespaces}
            await until(lambda: len(rig.ends()) == 29, 30)
            assert launches[namespaces[7]].launch_id not in rig.ends()
            await until(lambda: f"({namespaces[7]})" in rig.watch()["trouble"])
            rig.cluster.faults()
            await until(lambda: len(rig.ends()) == 30, 20)
            await until(lambda: not rig.watch()["trouble"], 20)
        asked = rig.cluster.control("audit", method="GET")["entries"][len(since) :]
        assert {entry["namespace"] for entry in asked if entry["verb"] in ("list", "watch")} >= set(namespaces)
        assert not [entry for entry in asked if entry["verb"] in ("list", "watch") and not entry["namespace"]]

    run(test())


def test_an_end_hidden_behind_a_forged_one_is_published_and_counted(
    rig: WatcherRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[str, Any]] = []

    class Recorder:
        @staticmethod
        def incr(name: str, count: int, tags: Any = None) -> None:
            if name != "podrelay.reports":
                counted.append((name, tags))

        @staticmethod
        def timing(name: str, milliseconds: float, tags: Any = None) -> None:
            """Lifecycles are timed beside it."""

    monkeypatch.setattr("airflow.providers.common.compat.sdk.Stats", Recorder)
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
    monkeypatch.setattr("podrelay_workers.watcher.quarantine_metric.INTERVAL_S", 0.1)
    rig.redis.xadd(rig.names.quarantine, {"job": "old", "kind": "malformed", "why": "before this watcher"})

    async def test() -> None:
        async with rig.watching():
            launch = rig.launch()
            await until(lambda: rig.said("started") == 1)
            await asyncio.sleep(0.5)
            forged = {
                "state": "finished",
                "outcome": "succeeded",
                "result": "x",
                "result_key": rig.cipher.fingerprints[0],
            }
            rig.redis.hset(rig.names.launch(launch.launch_id), mapping=forged)
            rig.end(launch, exit_code=1)
            end = await until(lambda: rig.end_of(launch))
            assert end.outcome == "failed"
            await until(lambda: counted)
        assert counted == [("podrelay.quarantined", {"what": "launch", "why": "undecryptable"})]

    run(test())
