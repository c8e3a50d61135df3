"""`airflow podrelay check`: tries each thing that podrelay needs before a scheduler depends on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from airflow.configuration import conf

from podrelay.cli import check_options
from podrelay.cli.check_kubernetes import REQUIRED_PERMISSIONS, async_only, check_permissions, open_client
from podrelay.cli.check_pod import check_pod
from podrelay.cli.check_policy import check_policy
from podrelay.cli.check_result import Check, Passed, run_step
from podrelay.cli.check_template import check_template
from podrelay.cli.check_warm_pods import check_warm_pods
from podrelay.errors import ConfigError
from podrelay.protocol.access import Role
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings, load_settings
from podrelay.store.connection import check as check_redis
from podrelay.store.connection import connect, redis_errors
from podrelay.store.key_rings import REMEDY, announced, key_ring, mismatches
from podrelay.store.permissions import require_rights
from podrelay.teams import cluster_of, kube_config_of

__all__ = ["REQUIRED_PERMISSIONS", "Check", "run_checks"]

_REDIS_TIMEOUT_S = 5.0
# Airflow's execution API tolerates 10 s ([api_auth] jwt_leeway).
_CLOCKS_APART_S = 5.0


def run_checks(team: str | None, process: str | None = None) -> Iterator[Check]:
    """Run every check, also after one has failed.

    :param process: check only what this process needs, `launcher` or `watcher`; None: also what schedulers need.
    """
    settings: list[Settings] = []
    if process is None:
        yield run_step("executor", lambda: check_options.check_executor(team))
    yield run_step("[podrelay] options", lambda: _options(settings))
    if settings:
        yield run_step("launch waits", lambda: check_options.check_wait_limit(settings[0], team))
        yield run_step("tokens", lambda: check_options.check_tokens(settings[0]))
        yield run_step("Fernet key", lambda: _fernet_key(settings[0]))
        yield run_step("Redis", lambda: _redis(settings[0], process, team))
        yield run_step("Fernet keys of all processes", lambda: _key_rings(settings[0]))
        yield run_step("clocks", lambda: _clocks(settings[0]))
    yield from _kubernetes(team, process, settings)


def _options(settings: list[Settings]) -> Passed:
    """Adds the settings to the list if they are valid, for the checks that follow."""
    settings.append(load_settings(conf, conf.get("core", "fernet_key", fallback="")))
    check_options.check_names()
    warnings = tuple(check_options.old_defaults(check_options.written_in_file()))
    return Passed(f"deployment {settings[0].deployment}", warnings)


def _kubernetes(team: str | None, process: str | None, settings: list[Settings]) -> Iterator[Check]:
    template = Check("pod template", False, "")
    if process != "watcher":  # which creates no pods
        template = run_step(template.name, lambda: check_template(kube_config_of(team)))
        yield template
        if settings:
            yield run_step("pod policy", lambda: check_policy(team, settings[0], kube_config_of(team), template.ok))
        if settings and settings[0].warm_pods_max:
            yield run_step("warm pods", lambda: check_warm_pods(team, settings[0], kube_config_of(team), template.ok))
    clients: list[Any] = []

    def permissions() -> Passed:
        kube_config = kube_config_of(team)
        clients.append(open_client(team, kube_config))
        processes = (process,) if process else tuple(REQUIRED_PERMISSIONS)
        return check_permissions(clients[0], kube_config, processes, async_only(team), *settings[:1])

    yield run_step("Kubernetes", permissions)
    if settings and clients and template.ok:
        yield run_step("dry run", lambda: check_pod(clients[0], team, settings[0], kube_config_of(team)))


def _fernet_key(settings: Settings) -> Passed:
    PayloadCipher(settings.fernet_key, settings.deployment)
    return Passed("valid")


def _redis(settings: Settings, process: str | None, team: str | None) -> Passed:
    """Also compares what Redis allows to this user with what the process needs that runs here."""
    role: Role = "launcher" if process == "launcher" else "watcher" if process == "watcher" else "scheduler"
    with connect(settings, timeout_s=_REDIS_TIMEOUT_S) as client:
        warnings = check_redis(client)
        require_rights(client, role, settings.deployment, cluster_of(team))
        with redis_errors(client):
            client.set(RedisKeys(settings.deployment).check, "1", ex=5)
    return Passed("reachable and writable", tuple(warnings))


def _key_rings(settings: Settings) -> Passed:
    """Compares the keys of the processes that run with those of this configuration, by their fingerprints."""
    cipher = PayloadCipher(settings.fernet_key, settings.deployment)
    keys, own = RedisKeys(settings.deployment), key_ring("this configuration", cipher)
    with connect(settings, timeout_s=_REDIS_TIMEOUT_S) as client, redis_errors(client):
        rings = announced(client, keys)
    found = mismatches([own, *rings])
    if found:
        raise ConfigError(f"{'; '.join(found)}. {REMEDY}")
    return Passed(f"the same in {len(rings)} running processes" if rings else "no process runs to compare with")


def _clocks(settings: Settings) -> Passed:
    """Compares the clock of this machine with Redis': Airflow's tokens need schedulers and API servers to agree."""
    with connect(settings, timeout_s=_REDIS_TIMEOUT_S) as client, redis_errors(client):
        before_s = time.time()
        seconds, microseconds = client.time()
        after_s = time.time()
    ahead_s = (before_s + after_s) / 2 - (seconds + microseconds / 1e6)
    apart = f"this machine is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} Redis"
    if abs(ahead_s) - (after_s - before_s) / 2 < _CLOCKS_APART_S:
        return Passed(apart)
    return Passed(
        apart, ("synchronise the clocks, with NTP for example: the tokens of tasks are valid for some minutes.",)
    )
