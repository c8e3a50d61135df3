"""A little of each part of the campaign, and what the campaign must cover."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.warm_pods import GIVEN
from tests.fuzz import api_part, cluster_part, redis_part, redis_writes, watch_part
from tests.harness.redis_server import find_server


def test_every_key_is_written_to() -> None:
    """A new key in `redis_keys` needs a family in the campaign, which writes every type to it."""
    assert {family.name for family in redis_writes.FAMILIES} == redis_writes.key_names()


def test_the_fields_that_scripts_read_are_among_those_written() -> None:
    assert {"failures", "until", "until:default", "expires", "fence", "attempt", "t_offered", "waits"} <= set(
        redis_writes.WORDS
    )


def test_a_warm_pod_says_in_one_piece_that_it_has_its_workload() -> None:
    """Many write to one file. What is mixed with the line of another pod is not read, and its task would never run."""
    end, start = os.pipe2(os.O_DIRECT)  # one read returns what one write has written
    words = [sys.executable, "-u", "-c", "from tests.chaos.warm_pods import _hold; _hold('')"]
    with os.fdopen(end, "rb", buffering=0) as lines, subprocess.Popen(words, stdout=start) as pod:
        os.close(start)
        said = lines.read(4096).decode()
        pod.kill()
    assert said.startswith(f"{GIVEN} ")
    assert said.endswith("\n")


@pytest.mark.timeout(240)
def test_random_values_in_redis(tmp_path: Path, airflow_db: None) -> None:
    find_server()
    report = redis_part.run(tmp_path / "redis", count=300, seed=1, pairs=1)
    assert report.wrong == [], report.notes


@pytest.mark.timeout(240)
def test_random_watch_events(tmp_path: Path) -> None:
    find_server()
    assert watch_part.run(tmp_path / "watch", count=500, seed=1).wrong == []


@pytest.mark.timeout(240)
def test_random_answers_of_the_api_server(tmp_path: Path) -> None:
    find_server()
    assert api_part.run(tmp_path / "api", count=300, seed=1, launcher_s=1.0).wrong == []


@pytest.mark.timeout(240)
def test_random_requests_and_pods(tmp_path: Path) -> None:
    assert cluster_part.run(tmp_path / "cluster", count=1000, seed=1).wrong == []
