"""Fixtures of the launcher's tests: a pods API in this process, and a deployment that uses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.launcher_rig import LauncherRig
from tests.harness.local_cluster import LocalCluster
from tests.harness.pod_api import PodApi
from tests.harness.warm_pods import TEMPLATE, Warm, WarmPodThreads


@pytest.fixture
def api() -> Iterator[PodApi]:
    with PodApi() as api:
        yield api


@pytest.fixture
def rig(redis_url: str, api: PodApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LauncherRig]:
    rig = LauncherRig(redis_url, api, tmp_path)
    for name, value in rig.environment().items():
        if name != "AIRFLOW_HOME":
            monkeypatch.setenv(name, value)
    yield rig
    rig.stop_processes()


@pytest.fixture
def warm(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warm]:
    with LocalCluster(tmp_path / "cluster", runner="simulate") as cluster:
        rig = LauncherRig.on_cluster(redis_url, cluster, tmp_path)
        rig.template.write_text(TEMPLATE)
        for name, value in rig.environment().items():
            if name != "AIRFLOW_HOME":
                monkeypatch.setenv(name, value)
        pods = WarmPodThreads(cluster, rig.settings)
        with pods.running():
            yield Warm(rig, cluster, pods)
        rig.stop_processes()
