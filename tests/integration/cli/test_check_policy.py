"""`airflow podrelay check` says whether `[podrelay] pod_policy` allows a pod of the template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from podrelay.cli.check import Check, run_checks
from tests.harness.launcher_rig import TEMPLATE

SHIPPED = Path(__file__).resolve().parents[3] / "docker" / "kubernetes" / "base" / "pod_template.yaml"


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATE)
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE", str(path))
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE", "tasks")
    return path


def checked(monkeypatch: pytest.MonkeyPatch, policy: str, process: str | None = "launcher") -> list[Check]:
    """No API server is needed."""
    monkeypatch.setenv("AIRFLOW__PODRELAY__POD_POLICY", policy)
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE", "/nonexistent")
    return [check for check in run_checks(None, process) if check.name == "pod policy"]


def test_the_policy_is_off_unless_it_is_set(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked(monkeypatch, "") == [Check("pod policy", True, "off: every pod is allowed")]


def test_a_template_that_the_policy_allows(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template.write_text(SHIPPED.read_text())
    (check,) = checked(monkeypatch, "strict")
    assert check.ok
    assert check.detail.endswith("rules, which allow a pod of the template in tasks")


def test_a_template_that_the_policy_forbids(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = checked(monkeypatch, "strict")
    assert not check.ok
    assert "pod_policy forbids this pod: " in check.detail
    assert (
        "privilege_escalation: spec.containers[0].securityContext.allowPrivilegeEscalation is not set" in check.detail
    )


def test_what_a_mutation_hook_adds_counts(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hook(pod: Any) -> None:
        pod.spec.host_pid = True

    monkeypatch.setattr("airflow.settings.pod_mutation_hook", hook)
    (check,) = checked(monkeypatch, '{"host_pid": false}')
    assert (check.ok, "host_pid: spec.hostPID is true" in check.detail) == (False, True)


def test_a_mistake_in_the_policy_is_named_even_without_a_template(
    template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template.unlink()
    (check,) = checked(monkeypatch, '{"host_pid": 1}')
    assert (check.ok, check.detail) == (False, "[podrelay] pod_policy: host_pid is 1, not true or false.")
    (check,) = checked(monkeypatch, '{"host_pid": false}')
    assert (check.ok, check.detail) == (True, "1 rules; no pod of the template to try them on")


def test_a_watcher_has_no_policy(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked(monkeypatch, "no JSON", process="watcher") == []
