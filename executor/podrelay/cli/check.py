"""`airflow podrelay check`: tries each thing that podrelay needs before a scheduler depends on it."""

from __future__ import annotations

from collections.abc import Iterator

from airflow.configuration import conf

from podrelay.cli import check_options
from podrelay.cli.check_kubernetes import REQUIRED_PERMISSIONS, check_kubernetes, check_template
from podrelay.cli.check_result import Check, Passed, run_step
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings, load_settings
from podrelay.store.connection import check as check_redis
from podrelay.store.connection import connect
from podrelay.teams import kube_config_of

__all__ = ["REQUIRED_PERMISSIONS", "Check", "run_checks"]

_REDIS_TIMEOUT_S = 5.0


def run_checks(team: str | None, process: str | None = None) -> Iterator[Check]:
    """Run every check, also after one has failed.

    :param process: check only what this process needs, `launcher` or `watcher`; None: also what schedulers need.
    """
    settings: list[Settings] = []

    def options() -> Passed:
        settings.append(load_settings(conf, conf.get("core", "fernet_key", fallback="")))
        check_options.check_names()
        warnings = tuple(check_options.old_defaults(check_options.written_in_file()))
        return Passed(f"deployment {settings[0].deployment}", warnings)

    if process is None:
        yield run_step("executor", lambda: check_options.check_executor(team))
    yield run_step("[podrelay] options", options)
    if settings:
        yield run_step("launch waits", lambda: check_options.check_wait_limit(settings[0], team))
        yield run_step("Fernet key", lambda: _fernet_key(settings[0]))
        yield run_step("Redis", lambda: _redis(settings[0]))
    yield run_step("pod template", lambda: check_template(kube_config_of(team)))
    processes = (process,) if process else tuple(REQUIRED_PERMISSIONS)
    yield run_step("Kubernetes", lambda: check_kubernetes(team, kube_config_of(team), processes))


def _fernet_key(settings: Settings) -> Passed:
    PayloadCipher(settings.fernet_key)
    return Passed("valid")


def _redis(settings: Settings) -> Passed:
    with connect(settings, timeout_s=_REDIS_TIMEOUT_S) as client:
        warnings = check_redis(client)
        client.set(RedisKeys(settings.deployment).check, "1", ex=5)
    return Passed("reachable and writable", tuple(warnings))
