"""`airflow podrelay check` says whether tasks with the configured template can get warm pods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from podrelay.cli.check import Check, run_checks
from tests.harness.launcher_rig import TEMPLATE


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATE)
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE", str(path))
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AIRFLOW__PODRELAY__WARM_PODS_MAX", "8")
    return path


def checked(process: str | None = "launcher") -> list[Check]:
    """No API server is needed."""
    return [check for check in run_checks(None, process) if check.name == "warm pods"]


def test_nothing_is_said_while_they_are_off(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__PODRELAY__WARM_PODS_MAX")
    assert checked() == []
    monkeypatch.setenv("AIRFLOW__PODRELAY__WARM_PODS_MAX", "8")
    assert checked("watcher") == []


def test_a_plain_template_is_fine(template: Path) -> None:
    (check,) = checked()
    assert (check.ok, check.warnings) == (True, ())
    assert check.detail == "0 to 8 without a task, each for 300 s"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("restartPolicy: Never", "restartPolicy: Never\n  activeDeadlineSeconds: 60"), "activeDeadlineSeconds"),
        (
            (
                "{name: base, ",
                "{name: base, env: [{name: D, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['dag_id']\"}}}], ",
            ),
            "reads the labels or annotations",
        ),
    ],
)
def test_a_template_whose_pods_cannot_be_warm(change: tuple[str, str], why: str, template: Path) -> None:
    template.write_text(TEMPLATE.replace(*change))
    (check,) = checked()
    assert check.ok
    (warning,) = check.warnings
    assert why in warning


def test_a_hook_that_replaces_the_arguments(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hook(pod: Any) -> None:
        pod.spec.containers[0].args = ["wrapper", *pod.spec.containers[0].args]

    monkeypatch.setattr("airflow.settings.pod_mutation_hook", hook)
    (check,) = checked()
    assert "pod_mutation_hook replaces its arguments" in check.warnings[0]


def test_pods_that_are_replaced_all_the_time(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__WARM_PODS_MIN", "4")
    monkeypatch.setenv("AIRFLOW__PODRELAY__WARM_POD_IDLE_S", "10")
    (check,) = checked()
    assert "warm_pod_idle_s = 10 ends and replaces 4 pods" in check.warnings[0]
