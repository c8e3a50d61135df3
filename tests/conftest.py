"""Fixtures of every suite: an Airflow home of the test run's own, a real redis-server, an empty database for each test."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator

# Airflow reads its configuration when it is first imported, so this comes before anything that could import it.
# The run's own home: no test ever touches the database or the airflow.cfg of whoever runs it.
_HOME = tempfile.mkdtemp(prefix="podrelay-tests-")
atexit.register(shutil.rmtree, _HOME, True)
FERNET_KEY = "bm90LWEtc2VjcmV0LWtleS1mb3ItdGVzdHMtb25seSE="
os.environ.update(
    {
        "AIRFLOW_HOME": _HOME,
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__FERNET_KEY": FERNET_KEY,
        "AIRFLOW__API_AUTH__JWT_SECRET": "a-secret-of-the-test-suite-that-is-long-enough-for-hs512-signatures-0123456789",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME}/airflow.db",
        "AIRFLOW__CORE__EXECUTOR": "podrelay.executor.RedisKubernetesExecutor",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
    }
)

import pytest  # noqa: E402
import redis  # noqa: E402
from xdist.scheduler import LoadScopeScheduling  # noqa: E402

from tests.harness.redis_server import RedisServer, find_server  # noqa: E402

# These run whole deployments, each of a dozen processes.
_ONE_AT_A_TIME = ("tests/end_to_end/", "tests/chaos/")


class _FilesAtATime(LoadScopeScheduling):
    """Which tests stay together in one process when several run (`make test`): those of a file, and whole deployments."""

    def _split_scope(self, nodeid: str) -> str:
        return "whole deployments" if nodeid.startswith(_ONE_AT_A_TIME) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _FilesAtATime:
    return _FilesAtATime(config, log)


@pytest.fixture(autouse=True)
def _loggers_speak() -> None:
    """What Airflow's start-up does to loggers that exist already (it disables them) must not reach the next test."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("podrelay") and isinstance(logger, logging.Logger):
            logger.disabled = False
            logger.propagate = True


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    find_server()  # fails in CI, skips on a laptop, when there is none
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of an empty database."""
    redis.Redis.from_url(redis_server.url).flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """Airflow's tables, in the SQLite file of this run."""
    from airflow.utils.db import initdb

    initdb()
