"""A pod that breaks `[podrelay] pod_policy`: its launch fails at once, naming the rule, without a pod; no other waits."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from podrelay.protocol.messages import LaunchRequest
from tests.harness.launcher_rig import TOKEN, LauncherRig
from tests.harness.waiting import until

OF_NODE = {"spec": {"hostNetwork": True, "containers": [{"name": "base"}]}}
RULES = '{"host_network": false, "host_paths": [], "added_capabilities": []}'


def outcome_of(rig: LauncherRig, request: LaunchRequest, **settings: Any) -> None:
    """Run a launcher until the launch is over."""

    async def scenario() -> None:
        async with rig.launcher(**settings):
            await until(lambda: rig.states([request]) in ({"created": 1}, {"finished": 1}))

    asyncio.run(scenario())


def test_a_violation_fails_its_launch_at_once_and_no_other(rig: LauncherRig, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = rig.request(1, pod_override=OF_NODE), rig.request(2)
    rig.offer(bad, good)

    async def scenario() -> None:
        async with rig.launcher(pod_policy=RULES):
            await until(lambda: rig.states([bad, good]) == {"created": 1, "finished": 1})

    asyncio.run(scenario())
    (report,) = rig.results()
    assert (report.launch_id, report.outcome, report.reason) == (bad.launch_id, "failed", "PodPolicyViolation")
    assert report.failure_class == "configuration"  # another try would fail as well
    assert report.message == "[podrelay] pod_policy forbids this pod: host_network: spec.hostNetwork is true"
    assert len(rig.api.creates) == 1  # of the other one
    assert rig.in_hand() == 0
    assert TOKEN not in caplog.text + report.message + str(rig.ledger(bad))


def test_no_policy_forbids_nothing(rig: LauncherRig) -> None:
    request = rig.request(pod_override=OF_NODE)
    rig.offer(request)
    outcome_of(rig, request)
    assert rig.states([request]) == {"created": 1}


def test_a_pod_that_exists_already_is_not_reported_as_failed(rig: LauncherRig) -> None:
    """The policy came into force after the pod was created, and Redis lost its data since."""
    request = rig.request(pod_override=OF_NODE)
    rig.offer(request)
    outcome_of(rig, request)
    rig.redis.flushall()
    rig.offer(request)
    outcome_of(rig, request, pod_policy=RULES)
    assert rig.states([request]) == {"created": 1}
    assert not rig.results()
    assert sum(rig.api.names.values()) == 1


def test_such_a_pod_is_looked_for_where_it_is(rig: LauncherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, and the launch needs a new token meanwhile. A mutation hook chose the namespace of its pod."""
    monkeypatch.setattr("airflow.settings.pod_mutation_hook", lambda pod: setattr(pod.metadata, "namespace", "other"))
    request = rig.request(pod_override=OF_NODE)
    rig.offer(request)
    outcome_of(rig, request)
    assert list(rig.api.pods) == [("other", next(iter(rig.api.names)))]
    rig.redis.flushall()
    rig.offer(request.replaced(not_after_s=time.time() + 1.0, token_life_s=600.0))
    outcome_of(rig, request, pod_policy=RULES)
    assert rig.states([request]) == {"created": 1}
    assert not rig.results()


def test_a_value_that_repeats_the_payload_is_not_shown(rig: LauncherRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutation hook may copy the command, which holds the token, anywhere."""

    def hook(pod: Any) -> None:
        pod.spec.containers[0].security_context = {"capabilities": {"add": list(pod.spec.containers[0].args)}}

    monkeypatch.setattr("airflow.settings.pod_mutation_hook", hook)
    request = rig.request()
    rig.offer(request)
    outcome_of(rig, request, pod_policy=RULES)
    (report,) = rig.results()
    assert "added_capabilities: spec.containers[0].securityContext.capabilities.add" in report.message
    assert TOKEN not in report.message
    assert not rig.api.creates


@pytest.mark.timeout(60)
def test_a_mistake_in_the_policy_stops_the_launcher_at_its_start(rig: LauncherRig) -> None:
    process = rig.start_process(AIRFLOW__PODRELAY__POD_POLICY='{"hostNetwork": false}')
    process.join(40)
    assert process.exitcode == 2
    assert '[podrelay] pod_policy: there is no rule "hostNetwork". Did you mean host_network?' in rig.log_of(0)
