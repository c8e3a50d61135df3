"""Pods whose containers are processes: phases, conditions, container states, environment, restarts."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.cluster_api import Json, NamespaceApi, condition, pod, state
from tests.harness.waiting import until


def container(name: str, *command: str, **more: Any) -> Json:
    return {"name": name, "image": "any:1", "command": list(command), **more}


def env_pod(command: str, *env: Json, **more: Any) -> Json:
    return pod("p", containers=[container("base", "sh", "-c", command, env=list(env), **more)])


def test_success(api: NamespaceApi) -> None:
    api.create(pod("p", "sh", "-c", "exit 0"))
    found = api.wait_phase("p", "Succeeded")
    status = found["status"]
    ended = state(found)["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (0, "Completed")
    assert ended["startedAt"] <= ended["finishedAt"]
    assert found["spec"]["nodeName"] == "local-node"
    assert (status["podIP"], status["hostIP"], status["qosClass"]) == ("127.0.0.1", "127.0.0.1", "BestEffort")
    assert status["startTime"]
    assert status["containerStatuses"][0]["restartCount"] == 0
    assert status["containerStatuses"][0]["ready"] is False
    assert (condition(found, "PodScheduled")["status"], condition(found, "Initialized")["status"]) == ("True", "True")
    assert (condition(found, "Ready")["status"], condition(found, "Ready")["reason"]) == ("False", "PodCompleted")


def test_running_pod_is_ready(api: NamespaceApi) -> None:
    version = api.version()
    api.create(pod("p", "sleep", "60"))
    found = api.wait_phase("p", "Running")
    assert found["status"]["containerStatuses"][0]["ready"] is True
    assert found["status"]["containerStatuses"][0]["started"] is True
    assert {condition(found, kind)["status"] for kind in ("Ready", "ContainersReady", "Initialized")} == {"True"}
    with api.watch(resourceVersion=version) as events:
        added, bound, accepted = (next(events)["object"] for _ in range(3))
    assert "nodeName" not in added["spec"]
    assert (bound["spec"]["nodeName"], condition(bound, "PodScheduled")["status"]) == ("local-node", "True")
    assert "startTime" not in bound["status"]
    assert state(accepted) == {"waiting": {"reason": "ContainerCreating"}}
    assert condition(accepted, "PodScheduled")["status"] == "True"
    assert condition(accepted, "ContainersReady")["reason"] == "ContainersNotReady"


@pytest.mark.parametrize(("command", "code"), [("exit 7", 7), ("kill -KILL $$$$", 137), ("kill -TERM $$$$", 143)])
def test_failure(api: NamespaceApi, command: str, code: int) -> None:
    api.create(pod("p", "sh", "-c", command))
    found = api.wait_phase("p", "Failed")
    assert (state(found)["terminated"]["exitCode"], state(found)["terminated"]["reason"]) == (code, "Error")
    assert condition(found, "Ready")["reason"] == "PodFailed"


def test_missing_command(api: NamespaceApi, tmp_path: Path) -> None:
    not_executable = tmp_path / "script"
    not_executable.write_text("#!/bin/sh\n")
    for name, command in (("p", "no-such-command"), ("q", str(not_executable)), ("r", "a\0b")):
        api.create(pod(name, command))
        ended = state(api.wait_phase(name, "Failed"))["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
        assert ended["startedAt"] == "1970-01-01T00:00:00Z"
        assert "failed to start container" in ended["message"]


def test_no_command_ends_at_once_and_logs_why(api: NamespaceApi) -> None:
    api.create(pod("p"))
    api.wait_phase("p", "Succeeded")
    assert "no entrypoint" in api.log("p")


def test_environment(api: NamespaceApi) -> None:
    api.create(
        env_pod(
            'echo "$A|$B|$C|$D|$HOSTNAME|$(A)"',
            {"name": "A", "value": "one"},
            {"name": "B", "value": "$(A)-two $(NONE) $$(A)"},
            {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "D"},
        )
    )
    api.wait_phase("p", "Succeeded")
    assert api.log("p") == f"one|one-two $(NONE) $(A)|{api.namespace}||p|one\n"


def test_downward_api(api: NamespaceApi) -> None:
    paths = ["metadata.name", "metadata.uid", "metadata.labels['a']", "metadata.annotations['b/c']", "status.podIP",
             "spec.nodeName", "spec.serviceAccountName"]  # fmt: skip
    env = [{"name": f"V{number}", "valueFrom": {"fieldRef": {"fieldPath": path}}} for number, path in enumerate(paths)]
    env.append({"name": "M", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}})
    body = env_pod("env | grep -E '^(V.|M)=' | sort", *env, resources={"limits": {"memory": "64Mi"}})
    body["metadata"].update(labels={"a": "x"}, annotations={"b/c": "y"})
    uid = api.create(body)["metadata"]["uid"]
    api.wait_phase("p", "Succeeded")
    values = dict(line.split("=") for line in api.log("p").splitlines())
    expected = ["p", uid, "x", "y", "127.0.0.1", "local-node", "default"]
    assert values == {"M": str(64 * 2**20), **{f"V{number}": value for number, value in enumerate(expected)}}


def test_arguments_directory_and_interpreter(api: NamespaceApi, tmp_path: Path) -> None:
    program = "import os, sys; print(sys.executable, os.getcwd(), sys.argv[1:])"
    base = container("base", "python", "-c", program, args=["$(W)", "b c"], workingDir=str(tmp_path))
    base["env"] = [{"name": "W", "value": "expanded"}]
    api.create(pod("p", containers=[base]))
    api.wait_phase("p", "Succeeded")
    assert api.log("p") == f"{Path(sys.executable).parent / 'python'} {tmp_path} ['expanded', 'b c']\n"


def test_process_group_ends_with_its_first_process(api: NamespaceApi) -> None:
    api.create(pod("p", "sh", "-c", "sleep 300 & echo $!"))
    api.wait_phase("p", "Succeeded")
    child = api.log("p").split()[0]
    stat = Path(f"/proc/{child}/stat")
    # The kernel takes its time to kill.
    asyncio.run(until(lambda: not stat.exists() or stat.read_text().split()[2] == "Z"))


class TestSeveralContainers:
    """Init containers, sidecars, several main containers."""

    def test_init_containers_run_in_order_before_the_others(self, api: NamespaceApi, tmp_path: Path) -> None:
        order = tmp_path / "order"
        inits = [container(name, "sh", "-c", f"echo {name} >> {order}") for name in ("one", "two")]
        main = container("base", "sh", "-c", f"echo base >> {order}; cat {order}")
        version = api.version()
        api.create(pod("p", containers=[main], initContainers=inits))
        found = api.wait_phase("p", "Succeeded")
        assert api.log("p") == "one\ntwo\nbase\n"
        assert [state(found, name)["terminated"]["reason"] for name in ("one", "two")] == ["Completed"] * 2
        with api.watch(resourceVersion=version) as events:
            accepted = next(event["object"] for event in events if "startTime" in event["object"]["status"])
        assert state(accepted)["waiting"]["reason"] == "PodInitializing"
        assert condition(accepted, "Initialized")["status"] == "False"
        assert "[one two]" in condition(accepted, "Initialized")["message"]

    def test_failing_init_container_fails_the_pod(self, api: NamespaceApi) -> None:
        body = pod("p", "true", initContainers=[container("init", "sh", "-c", "exit 4")])
        api.create(body)
        found = api.wait_phase("p", "Failed")
        assert state(found, "init")["terminated"]["exitCode"] == 4
        assert state(found) == {"waiting": {"reason": "PodInitializing"}}
        assert condition(found, "Initialized")["status"] == "False"

    def test_init_container_is_restarted(self, api: NamespaceApi, tmp_path: Path) -> None:
        again = f"test -e {tmp_path}/been || {{ touch {tmp_path}/been; exit 1; }}"
        init = container("init", "sh", "-c", again)
        api.create(pod("p", "true", restartPolicy="OnFailure", initContainers=[init]))
        found = api.wait_phase("p", "Succeeded")
        assert found["status"]["initContainerStatuses"][0]["restartCount"] == 1

    def test_native_sidecar_runs_beside_and_is_stopped_after(self, api: NamespaceApi) -> None:
        sidecar = container(
            "side", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done", restartPolicy="Always"
        )
        version = api.version()
        api.create(pod("p", "sleep", "0.2", initContainers=[sidecar]))
        found = api.wait_phase("p", "Succeeded")
        assert state(found, "side")["terminated"]["exitCode"] == 0
        with api.watch(resourceVersion=version) as events:
            for event in events:
                if "startTime" in event["object"]["status"] and "running" in state(event["object"]):
                    break
        assert "running" in state(event["object"], "side")
        assert event["object"]["status"]["phase"] == "Running"

    def test_pod_ends_with_its_last_container(self, api: NamespaceApi) -> None:
        two = [container("a", "true"), container("b", "sh", "-c", "sleep 0.3; exit 1")]
        api.create(pod("p", containers=two))
        found = api.wait("p", lambda now: "startTime" in now["status"] and "terminated" in state(now, "a"))
        assert found["status"]["phase"] == "Running"
        found = api.wait_phase("p", "Failed", "Succeeded")
        assert found["status"]["phase"] == "Failed"
        assert [state(found, name)["terminated"]["exitCode"] for name in "ab"] == [0, 1]


class TestRestarts:
    """restartPolicy and CrashLoopBackOff."""

    def test_on_failure_restarts_until_success(self, api: NamespaceApi, tmp_path: Path) -> None:
        program = f"test -e {tmp_path}/been || {{ touch {tmp_path}/been; echo first; exit 5; }}; echo second"
        api.create(pod("p", "sh", "-c", program, restartPolicy="OnFailure"))
        found = api.wait_phase("p", "Succeeded")
        status = found["status"]["containerStatuses"][0]
        assert status["restartCount"] == 1
        assert status["lastState"]["terminated"]["exitCode"] == 5
        assert api.log("p") == "second\n"
        assert api.log("p", previous="true") == "first\n"

    @pytest.mark.parametrize(("policy", "code"), [("Always", 0), ("OnFailure", 1)])
    def test_crash_loop(self, api: NamespaceApi, policy: str, code: int) -> None:
        api.create(pod("p", "sh", "-c", f"exit {code}", restartPolicy=policy))
        found = api.wait("p", lambda now: _waiting(now) == "CrashLoopBackOff")
        status = found["status"]["containerStatuses"][0]
        assert found["status"]["phase"] == "Running"
        assert status["restartCount"] >= 1
        assert status["lastState"]["terminated"]["exitCode"] == code
        assert "back-off" in status["state"]["waiting"]["message"]
        version = api.version()
        api.delete("p")
        last = api.wait_gone("p", version)
        assert last["status"]["phase"] == ("Failed" if code else last["status"]["phase"])


def test_active_deadline(api: NamespaceApi) -> None:
    api.create(pod("p", "sleep", "60", activeDeadlineSeconds=1))
    found = api.wait_phase("p", "Failed")
    assert found["status"]["reason"] == "DeadlineExceeded"
    assert state(found)["terminated"]["exitCode"] == 143


def test_unsatisfied_node_selector(api: NamespaceApi) -> None:
    api.create(pod("p", nodeSelector={"disk": "ssd"}))
    found = api.wait("p", lambda now: bool(now["status"].get("conditions")))
    scheduled = condition(found, "PodScheduled")
    assert (scheduled["status"], scheduled["reason"]) == ("False", "Unschedulable")
    assert scheduled["message"].startswith("0/1 nodes are available")
    assert found["status"]["phase"] == "Pending"
    assert "nodeName" not in found["spec"]


def test_satisfied_node_selector(api: NamespaceApi) -> None:
    api.create(pod("p", "true", nodeSelector={"kubernetes.io/os": "linux", "kubernetes.io/hostname": "local-node"}))
    api.wait_phase("p", "Succeeded")


class TestReferences:
    """Secrets and ConfigMaps."""

    def test_missing_secret_then_created(self, api: NamespaceApi) -> None:
        reference = {"secretKeyRef": {"name": "s", "key": "k"}}
        api.create(env_pod('echo "got $V"', {"name": "V", "valueFrom": reference}))
        found = api.wait("p", lambda now: _waiting(now) == "CreateContainerConfigError")
        assert state(found)["waiting"]["message"] == 'secret "s" not found'
        assert found["status"]["phase"] == "Pending"
        self._make(api, "secrets", {"metadata": {"name": "s"}, "stringData": {"other": "1"}})
        wanted = f"couldn't find key k in Secret {api.namespace}/s"
        api.wait("p", lambda now: state(now).get("waiting", {}).get("message") == wanted)
        path = f"/api/v1/namespaces/{api.namespace}/secrets/s"
        merge = {"Content-Type": "application/merge-patch+json"}
        assert api.request("PATCH", path, {"stringData": {"k": "value"}}, headers=merge).status_code == 200
        api.wait_phase("p", "Succeeded")
        assert api.log("p") == "got value\n"

    def test_config_map(self, api: NamespaceApi) -> None:
        self._make(api, "configmaps", {"metadata": {"name": "c"}, "data": {"X": "1", "Y": "2"}})
        optional = {"configMapKeyRef": {"name": "none", "key": "k", "optional": True}}
        body = env_pod('echo "$P_X$P_Y$V"', {"name": "V", "valueFrom": optional})
        body["spec"]["containers"][0]["envFrom"] = [
            {"prefix": "P_", "configMapRef": {"name": "c"}},
            {"secretRef": {"name": "none", "optional": True}},
        ]
        api.create(body)
        api.wait_phase("p", "Succeeded")
        assert api.log("p") == "12\n"

    def test_missing_config_map(self, api: NamespaceApi) -> None:
        body = env_pod("true")
        body["spec"]["containers"][0]["envFrom"] = [{"configMapRef": {"name": "c"}}]
        api.create(body)
        found = api.wait("p", lambda now: _waiting(now) == "CreateContainerConfigError")
        assert state(found)["waiting"]["message"] == 'configmap "c" not found'
        api.delete("p")
        api.wait_gone("p", found["metadata"]["resourceVersion"])

    def test_volume_of_a_missing_secret_keeps_the_container_creating(self, api: NamespaceApi) -> None:
        api.create(pod("p", "true", volumes=[{"name": "v", "secret": {"secretName": "s"}}]))
        api.wait("p", lambda now: _waiting(now) == "ContainerCreating")
        self._make(api, "secrets", {"metadata": {"name": "s"}, "data": {}})
        api.wait_phase("p", "Succeeded")

    @staticmethod
    def _make(api: NamespaceApi, resource: str, body: Json) -> None:
        path = f"/api/v1/namespaces/{api.namespace}/{resource}"
        assert api.request("POST", path, body).status_code == 201


def test_termination_message_from_the_log(api: NamespaceApi) -> None:
    base = container("base", "sh", "-c", "echo why; exit 1", terminationMessagePolicy="FallbackToLogsOnError")
    api.create(pod("p", containers=[base]))
    assert state(api.wait_phase("p", "Failed"))["terminated"]["message"] == "why\n"


def _waiting(found: Json) -> str:
    statuses = found["status"].get("containerStatuses") or [{"state": {}}]
    return str(statuses[0]["state"].get("waiting", {}).get("reason", ""))
