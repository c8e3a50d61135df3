"""Injected faults, forced ends, compaction, restarts, audit log: what other suites rely on."""

from __future__ import annotations

import itertools
import socket
import time
from functools import partial
from typing import Any

import httpx
import pytest

from tests.harness.cluster_api import (
    ClusterApi,
    Json,
    NamespaceApi,
    condition,
    held,
    in_background,
    pod,
    state,
    status_of,
)


class TestRequests:
    """Faults of single requests."""

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            (403, "Forbidden"),
            (429, "TooManyRequests"),
            (500, "InternalError"),
            (503, "ServiceUnavailable"),
            (504, "Timeout"),
        ],
    )
    def test_status(self, simulated: NamespaceApi, code: int, reason: str) -> None:
        simulated.cluster.faults(
            {"verb": "create", "status": code, "message": "because", "retry_after_s": 7, "count": 1}
        )
        answer = simulated.request("POST", "", held())
        status = status_of(answer, code, reason)
        assert (answer.headers["Retry-After"], status["details"]["retryAfterSeconds"]) == ("7", 7)
        assert status["message"] == "because"
        simulated.create(held())

    def test_seats(self, simulated: NamespaceApi) -> None:
        simulated.cluster.faults({"verbs": ["create"], "seats": 2, "latency_s": 0.5})
        pods = [held("a"), held("c")]
        waiting = [in_background(partial(simulated.create, pod)) for pod in pods]
        time.sleep(0.2)
        refused = simulated.request("POST", "", held("b"))
        assert refused.headers["Retry-After"] == "1"
        assert status_of(refused, 429, "TooManyRequests")["message"] == "Too many requests, please try again later."
        for request in waiting:
            request.join()
        simulated.create(held("b"))

    def test_match_by_namespace_name_and_verb(self, simulated: NamespaceApi) -> None:
        rule: Json = {
            "verbs": ["create", "delete"],
            "namespace": simulated.namespace,
            "name_prefix": "bad-",
            "status": 500,
        }
        simulated.cluster.faults(rule)
        assert simulated.request("POST", "", held("bad-1")).status_code == 500
        assert simulated.request("DELETE", "/bad-1").status_code == 500
        assert simulated.request("GET", "/bad-1").status_code == 404
        simulated.create(held("good"))
        assert simulated.cluster.call("GET", "/local-cluster/faults")["rules"][0]["hits"] == 2

    def test_probability_is_seeded(self, simulated: NamespaceApi) -> None:
        def outcome() -> list[int]:
            simulated.cluster.faults({"verb": "get", "probability": 0.5, "status": 500}, seed=3)
            return [simulated.request("GET", "/none").status_code for _ in range(40)]

        first = outcome()
        assert first == outcome()
        assert 5 < first.count(500) < 35

    def test_latency(self, simulated: NamespaceApi) -> None:
        simulated.cluster.faults({"verb": "list", "latency_s": 0.3, "count": 1})
        begun = time.monotonic()
        simulated.listing()
        assert time.monotonic() - begun >= 0.3

    def test_reset(self, simulated: NamespaceApi) -> None:
        simulated.cluster.faults({"verb": "create", "reset": True, "count": 1})
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            simulated.request("POST", "", held())
        assert simulated.names() == []

    def test_lost_response(self, simulated: NamespaceApi) -> None:
        simulated.cluster.faults({"verb": "create", "lost_response": True, "count": 1})
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            simulated.request("POST", "", held())
        assert simulated.names() == ["p"]
        status_of(simulated.request("POST", "", held()), 409, "AlreadyExists")

    def test_hang(self, simulated: NamespaceApi) -> None:
        simulated.cluster.faults({"verb": "create", "hang": True})
        since = simulated.cluster.audit()[-1]["number"]
        with pytest.raises(httpx.ReadTimeout):
            simulated.request("POST", "", held(), timeout=0.3)
        simulated.cluster.faults()
        assert [(entry["verb"], entry["status"]) for entry in simulated.cluster.audit(since)] == [("create", 0)]
        simulated.create(held())

    def test_hang_ends_when_its_rule_is_removed(self, simulated: NamespaceApi) -> None:
        simulated.cluster.faults({"verb": "get", "hang": True})
        seen: list[Exception] = []

        def request() -> None:
            try:
                httpx.get(
                    f"{simulated.cluster.url}{simulated.path}/p",
                    headers=simulated.cluster.headers,
                    verify=simulated.cluster.tls,
                    timeout=20,
                )
            except httpx.HTTPError as exc:
                seen.append(exc)

        thread = in_background(request)
        thread.join(0.3)
        assert thread.is_alive()
        simulated.cluster.faults()
        thread.join(10)
        assert len(seen) == 1

    def test_rules_are_added_and_removed(self, simulated: NamespaceApi) -> None:
        first = simulated.cluster.add_fault(verb="get", status=500)
        second = simulated.cluster.add_fault(verb="list", status=503)
        assert simulated.request("GET", "/p").status_code == 500
        simulated.cluster.remove_fault(first)
        assert simulated.request("GET", "/p").status_code == 404
        assert simulated.request("GET").status_code == 503
        simulated.cluster.remove_fault(second)
        assert simulated.request("GET").status_code == 200

    @pytest.mark.parametrize(
        "body",
        [
            {"rules": [{"verb": "get", "explode": True}]},
            {"rules": ["x"]},
            {"rules": [{"latency_s": "long"}]},
            {"other": 1},
            [],
            {"images": [{}]},
            {"quota": {"default": "many"}},
        ],
        ids=str,
    )
    def test_invalid_configuration(self, simulated: NamespaceApi, body: object) -> None:
        status_of(simulated.request("PUT", "/local-cluster/faults", body), 400, "BadRequest")

    def test_quota(self, simulated: NamespaceApi) -> None:
        simulated.cluster.faults(quota={simulated.namespace: 2})
        simulated.create(held("a"))
        simulated.create(held("b"))
        status = status_of(simulated.request("POST", "", held("c")), 403, "Forbidden")
        counts = "requested: pods=1, used: pods=2, limited: pods=2"
        assert status["message"] == f'pods "c" is forbidden: exceeded quota: local-cluster, {counts}'
        simulated.wait_scheduled("a")
        simulated.set_phase("a", "Succeeded")
        simulated.create(held("c"))

    def test_image_that_cannot_be_pulled(self, simulated: NamespaceApi) -> None:
        simulated.cluster.faults(images=[{"pattern": "any:*", "message": "no such image"}])
        version = simulated.version()
        simulated.create(pod())
        reasons = []
        with simulated.watch(resourceVersion=version) as events:
            for event in events:
                waiting = _waiting(event["object"])
                reasons.append((waiting.get("reason"), waiting.get("message")))
                if waiting.get("reason") == "ImagePullBackOff":
                    break
        assert ("ErrImagePull", "no such image") in reasons
        assert reasons[-1][1] == 'Back-off pulling image "any:1": ErrImagePull: no such image'
        simulated.cluster.faults()
        simulated.wait_phase("p", "Running", "Succeeded")


def _waiting(found: Json) -> Json:
    statuses = found["status"].get("containerStatuses") or [{"state": {}}]
    return dict(statuses[0]["state"].get("waiting") or {})


class TestStreams:
    """Faults of watches."""

    def test_gone(self, simulated: NamespaceApi) -> None:
        simulated.cluster.faults({"verb": "watch", "gone": True, "count": 1})
        version = simulated.version()
        with simulated.watch(resourceVersion=version) as events:
            assert [event["object"]["code"] for event in events] == [410]
        with simulated.watch(resourceVersion=version, timeoutSeconds="1") as events:
            assert list(events) == []

    def test_gone_list(self, simulated: NamespaceApi) -> None:
        simulated.cluster.faults({"verb": "list", "gone": True, "count": 1})
        status_of(simulated.request("GET"), 410, "Expired")

    def test_truncated(self, simulated: NamespaceApi) -> None:
        version = simulated.version()
        with simulated.client.stream(
            "GET", simulated.path, params={"watch": "1", "resourceVersion": version}
        ) as response:
            simulated.cluster.faults({"verb": "watch", "truncate_stream": True, "count": 1})
            simulated.create(held())
            got = b""
            with pytest.raises(httpx.RemoteProtocolError):
                for chunk in response.iter_bytes():
                    got += chunk
        assert got.startswith(b'{"type":"ADDED"')
        assert b"\n" not in got
        with simulated.watch(resourceVersion=version) as events:
            assert next(events)["type"] == "ADDED"

    def test_silence_delays_events_that_a_new_watch_sees(self, simulated: NamespaceApi) -> None:
        version = simulated.version()
        with simulated.watch(resourceVersion=version) as silent:
            simulated.create(held("before"))
            assert [event["type"] for event in itertools.islice(silent, 3)] == ["ADDED", "MODIFIED", "MODIFIED"]
            rule = simulated.cluster.add_fault(verb="watch", silence=True)
            simulated.create(held("during"))
            with simulated.watch(resourceVersion=version) as fresh:
                names = [event["object"]["metadata"]["name"] for event in itertools.islice(fresh, 4)]
            assert "during" in names
            with simulated.watch(resourceVersion=version, timeoutSeconds="1") as fresh:
                assert len(list(fresh)) == 6
            held_back: list[Json] = []
            thread = in_background(lambda: held_back.extend(itertools.islice(silent, 2)))
            thread.join(0.3)
            assert held_back == []
            simulated.cluster.remove_fault(rule)
            thread.join(10)
            assert [event["object"]["metadata"]["name"] for event in held_back][-1] == "during"

    def test_silence_of_new_streams(self, simulated: NamespaceApi) -> None:
        simulated.cluster.faults({"verb": "watch", "silence": True, "also_new_streams": True, "count": 1})
        simulated.create(held())
        params = {"watch": "1", "timeoutSeconds": "1"}
        stream = simulated.client.stream("GET", simulated.path, params=params, timeout=1.5)
        with stream as response, pytest.raises(httpx.ReadTimeout):
            next(response.iter_lines())
        with simulated.watch() as events:
            assert next(events)["type"] == "ADDED"


ENDS: dict[str, tuple[Json, str, dict[str, Any]]] = {
    "success": ({"exit_code": 0}, "Succeeded", {"exitCode": 0, "reason": "Completed"}),
    "out of memory": ({"exit_code": 137, "reason": "OOMKilled"}, "Failed", {"exitCode": 137, "reason": "OOMKilled"}),
    "signal": ({"exit_code": 139, "signal": 11}, "Failed", {"exitCode": 139, "signal": 11, "reason": "Error"}),
    "evicted": (
        {"exit_code": 137, "pod_reason": "Evicted", "pod_message": "The node was low on resource: memory."},
        "Failed",
        {"exitCode": 137},
    ),
    "start error": (
        {"exit_code": 128, "reason": "StartError", "message": "no such file"},
        "Failed",
        {"reason": "StartError", "message": "no such file"},
    ),
}


class TestForcedEnds:
    """Pods that a test ends in a given way."""

    @pytest.mark.parametrize("runner", ["api", "simulated"])
    @pytest.mark.parametrize("case", ENDS)
    def test_end(self, request: pytest.FixtureRequest, runner: str, case: str) -> None:
        api: NamespaceApi = request.getfixturevalue(runner)
        end, phase, wanted = ENDS[case]
        body = pod("p", "sleep", "60")
        body["metadata"]["annotations"] = {"local-cluster/duration-s": "60"}
        api.create(body)
        api.wait_phase("p", "Running")
        found = api.cluster.end_pod(api.namespace, "p", **end)
        assert found == api.get("p")
        assert found["status"]["phase"] == phase
        assert wanted.items() <= state(found)["terminated"].items()
        assert found["status"].get("reason") == end.get("pod_reason")
        assert found["status"].get("message") == end.get("pod_message")
        assert condition(found, "Ready")["status"] == "False"
        assert found["status"]["containerStatuses"][0]["ready"] is False
        before = api.version()
        api.delete("p")
        assert api.wait_gone("p", before)["status"]["phase"] == phase

    def test_disruption_target(self, simulated: NamespaceApi) -> None:
        simulated.create(held())
        simulated.wait_scheduled("p")
        target = {"type": "DisruptionTarget", "reason": "PreemptionByScheduler", "message": "preempted"}
        found = simulated.cluster.end_pod(simulated.namespace, "p", phase="Failed", exit_code=143, conditions=[target])
        assert condition(found, "DisruptionTarget")["status"] == "True"
        assert condition(found, "DisruptionTarget")["lastTransitionTime"]

    def test_init_container_failure(self, simulated: NamespaceApi) -> None:
        body = held()
        body["spec"]["initContainers"] = [{"name": "init", "image": "i"}]
        simulated.create(body)
        simulated.wait_scheduled("p")
        found = simulated.cluster.end_pod(simulated.namespace, "p", container="init", exit_code=1)
        assert state(found, "init")["terminated"]["exitCode"] == 1
        assert state(found)["waiting"]["reason"] == "PodInitializing"
        assert found["status"]["phase"] == "Failed"

    def test_node_lost_does_not_change_the_containers(self, api: NamespaceApi) -> None:
        api.create(pod("p", "sleep", "60"))
        api.wait_phase("p", "Running")
        found = api.cluster.end_pod(api.namespace, "p", phase="Unknown", pod_reason="NodeLost")
        assert (found["status"]["phase"], found["status"]["reason"]) == ("Unknown", "NodeLost")
        assert "running" in state(found)

    @pytest.mark.parametrize(
        "body", [{}, {"exit": 1}, {"phase": "Done"}, {"exit_code": 1, "container": "none"}, []], ids=str
    )
    def test_invalid_end(self, simulated: NamespaceApi, body: object) -> None:
        simulated.create(held())
        path = f"/local-cluster/pods/{simulated.namespace}/p/end"
        status_of(simulated.request("POST", path, body), 400, "BadRequest")
        status_of(simulated.request("POST", path.replace("/p/", "/q/"), {"exit_code": 0}), 404, "NotFound")

    def test_vanish(self, api: NamespaceApi) -> None:
        api.create(pod("p", "sh", "-c", "echo $$$$; sleep 60"))
        found = api.wait_phase("p", "Running")
        api.cluster.vanish_pod(api.namespace, "p")
        last = api.wait_gone("p", found["metadata"]["resourceVersion"])
        assert "deletionTimestamp" not in last["metadata"]
        assert last["status"]["phase"] == "Running"

    def test_status_of_a_held_pod_is_written_by_the_test(self, simulated: NamespaceApi) -> None:
        simulated.create(held())
        found = simulated.wait_scheduled("p")
        assert _waiting(found)["reason"] == "ContainerCreating"
        for phase in ("Running", "Succeeded"):
            simulated.set_phase("p", phase)
        assert simulated.get("p")["status"]["phase"] == "Succeeded"


class TestRestart:
    """The API server is unreachable for a while; pods continue."""

    def test_pods_continue_while_the_server_is_down(self, api: NamespaceApi) -> None:
        api.create(pod("p", "sh", "-c", "sleep 0.2; exit 6"))
        api.wait_phase("p", "Running")
        version = api.version()
        with api.client.stream("GET", api.path, params={"watch": "1", "resourceVersion": version}) as response:
            api.cluster.restart(0.5)
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                list(response.iter_lines())
        with pytest.raises(httpx.ConnectError):
            api.version()
        _wait_until_up(api.cluster)
        with api.watch(resourceVersion=version) as events:
            assert state(next(events)["object"])["terminated"]["exitCode"] == 6

    def test_restart_with_an_empty_event_window(self, simulated: NamespaceApi) -> None:
        version = simulated.version()
        simulated.create(held())
        simulated.wait_scheduled("p")
        simulated.cluster.restart(0.0, forget=True)
        _wait_until_up(simulated.cluster)
        with simulated.watch(resourceVersion=version) as events:
            assert next(events)["object"]["code"] == 410

    @pytest.mark.parametrize("body", [{"down_s": "x"}, {"down_s": -1}, []], ids=str)
    def test_invalid_restart(self, simulated: NamespaceApi, body: object) -> None:
        status_of(simulated.request("POST", "/local-cluster/restart", body), 400, "BadRequest")


def _wait_until_up(cluster: ClusterApi) -> None:
    port = int(cluster.url.rpartition(":")[2])
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise AssertionError("the server is not reachable again within 10 s")


def test_audit(simulated: NamespaceApi) -> None:
    since = simulated.cluster.audit()[-1]["number"]
    made = simulated.create(held("p", {"a": "b"}))
    simulated.request("POST", "", held("p"))
    simulated.listing()
    simulated.patch("p", {"metadata": {"labels": {"x": "y"}}})
    with simulated.watch() as events:
        next(events)
    simulated.delete("p", gracePeriodSeconds="0")
    entries = simulated.cluster.audit(since)
    seen = [(entry["verb"], entry["name"], entry["status"]) for entry in entries]
    assert seen == [
        ("create", "p", 201),
        ("create", "p", 409),
        ("list", "", 200),
        ("patch", "p", 200),
        ("watch", "", 200),
        ("delete", "p", 200),
    ]
    assert (entries[0]["uid"], entries[0]["labels"]) == (made["metadata"]["uid"], {"a": "b"})
    assert entries[0]["namespace"] == simulated.namespace
    assert entries[0]["user_agent"].startswith("python-httpx")
    assert entries[0]["time"] <= entries[-1]["time"]


def test_stats(simulated: NamespaceApi) -> None:
    simulated.create(held())
    stats = simulated.cluster.stats()
    assert stats["pods"]["Pending"] >= 1
    assert int(stats["resourceVersion"]) >= int(stats["oldestResourceVersion"])


def test_unknown_control_path(simulated: NamespaceApi) -> None:
    status_of(simulated.request("POST", "/local-cluster/explode"), 404, "NotFound")
    status_of(simulated.request("GET", "/local-cluster/compact"), 405, "MethodNotAllowed")
    status_of(simulated.request("POST", f"/local-cluster/pods/{simulated.namespace}/p/vanish"), 404, "NotFound")
