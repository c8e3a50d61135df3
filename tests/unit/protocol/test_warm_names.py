"""Names of warm pods: valid, their own, and never those of a launch's pod."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podrelay.protocol import identifiers


@given(st.text(max_size=300), st.uuids(), st.integers(0, 500))
def test_a_warm_pod_never_has_the_name_of_an_attempt(prefix: str, launch_id: Any, attempt: int) -> None:
    warm_id = identifiers.new_warm_id()
    name = identifiers.warm_pod_name(prefix, warm_id)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name)
    assert identifiers.warm_id_of_pod(name) == warm_id
    assert identifiers.launch_of_pod(name) is None
    assert identifiers.warm_id_of_pod(identifiers.pod_name(prefix, str(launch_id), attempt)) is None
    assert identifiers.warm_id_of_pod(identifiers.pod_name(name, str(launch_id), attempt)) is None


@pytest.mark.parametrize(
    "name", ["", "x-warm-{id}\n", "x-warm-{id}.y", "-warm-{id}", "X-warm-{id}", "../x-warm-{id}", "x-warm-{id}0",
             "xwarm-{id}", "y" * 30 + "-warm-{id}", "\0-warm-{id}"]
)  # fmt: skip
def test_other_names_are_no_warm_pods(name: str) -> None:
    assert identifiers.warm_id_of_pod(name.format(id=identifiers.new_warm_id())) is None


@given(st.uuids(), st.integers(0, 500))
def test_the_host_name_of_a_warm_pod_says_which_launch_it_runs(launch_id: Any, attempt: int) -> None:
    pod = identifiers.warm_pod_name("etl", identifiers.new_warm_id())
    for own in (pod, f"{pod}.etl.svc.cluster.local", "10.0.0.7", "localhost", ""):
        host = identifiers.warm_host(own, str(launch_id), attempt)
        assert host.startswith(f"{own}.")
        assert identifiers.launch_of_host(host) == (str(launch_id), attempt)
        assert len(host) < 1000


@given(st.text(max_size=60), st.uuids(), st.integers(0, 500))
def test_the_host_name_of_a_launch_s_pod_is_its_name(prefix: str, launch_id: Any, attempt: int) -> None:
    pod = identifiers.pod_name(prefix, str(launch_id), attempt)
    for host in (pod, f"{pod}.etl.svc.cluster.local"):
        assert identifiers.launch_of_host(host) == (str(launch_id), attempt)


@pytest.mark.parametrize(
    "host", ["", ".", "worker-1", "10.0.0.7", "x.{hex}", "x.{hex}-", "x.{hex}-0\n", "x.a{hex}-0", "{hex}-0", "x.{hex}-0.y",
             "x.{hex}-\u0660", "x.{hex}-0-1", "x.{hex}-1234567890"]
)  # fmt: skip
def test_other_hosts_run_no_launch(host: str) -> None:
    assert identifiers.launch_of_host(host.format(hex=identifiers.new_launch_id().replace("-", ""))) is None
