"""The options of `[podrelay]`: read from Airflow's configuration and validated once per process.

Options that the stock executor has as well are read from `[kubernetes_executor]` by the provider's KubeConfig and are not
declared here. Seconds are floats named `_s`; no secret appears in a repr.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from podrelay.errors import ConfigError
from podrelay.get_provider_info import default_of
from podrelay.monitoring_address import MonitoringAddress, parse_monitoring_bind
from podrelay.redis_address import parse_redis_url, parse_sentinels

SECTION = "podrelay"

_Number = TypeVar("_Number", int, float)

# As Airflow reads booleans.
_FLAGS = dict.fromkeys(("t", "true", "1"), True) | dict.fromkeys(("f", "false", "0"), False)
_DEPLOYMENT = re.compile(r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")


class Conf(Protocol):
    """The one method of Airflow's configuration, or of a team's ExecutorConf, that this module calls."""

    def get(self, section: str, key: str, **kwargs: Any) -> str | None: ...


@dataclass(frozen=True)
class Settings:
    """`[podrelay]` as plain values. `podrelay.get_provider_info` explains each option."""

    redis_url: str = field(repr=False)
    fernet_key: str = field(repr=False)
    deployment: str = "default"
    redis_timeout_s: float = 0.5
    redis_sentinels: tuple[tuple[str, int], ...] = ()
    redis_sentinel_master: str = ""
    redis_sentinel_username: str = ""
    redis_sentinel_password: str = field(default="", repr=False)
    redis_sentinel_tls: bool = False
    launcher_concurrency: int = 64
    launch_lease_s: float = 6.0
    token_margin_s: float = 60.0
    capacity_wait_s: float = 0.0
    launch_retries_max: int | None = None
    result_batch_size: int = 500
    reconcile_interval_s: float = 5.0
    results_max_length: int = 100_000
    ledger_ttl_s: float = 3600.0
    watch_silence_s: float = 75.0
    watch_lease_s: float = 5.0
    pending_grace_s: float = 60.0
    failure_log_lines: int = 20
    cleanup_concurrency: int = 16
    # As written; `podrelay_workers.launcher.pod_policy` reads it.
    pod_policy: str = ""
    workload_in_secret: bool = False
    warm_pods_max: int = 0
    warm_pods_min: int = 0
    warm_pod_idle_s: float = 300.0
    warm_assign_timeout_s: float = 2.0
    monitoring_bind: MonitoringAddress = MonitoringAddress("127.0.0.1", range(8790, 8810))
    ui_page: bool = True
    dashboard_url: str = ""

    @property
    def place(self) -> str:
        """Identifies this deployment: two of one user may have the same name on different servers. Holds no secret."""
        address = re.sub("//.*@", "//", self.redis_url).partition("?")[0]
        text = repr((address, self.redis_sentinels, self.redis_sentinel_master))
        return f"{self.deployment}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def load_settings(conf: Conf, core_fernet_key: str | None = None) -> Settings:
    """Read and validate `[podrelay]`.

    :param core_fernet_key: `[core] fernet_key`, used if `[podrelay] fernet_key` is empty.
    :raises ConfigError: an option is invalid.
    """
    read = _Reader(conf)
    _require_prefix_of_rq()
    url, sentinels = read.text("redis_url"), parse_sentinels(read.text("redis_sentinels"))
    address, sentinel_tls = parse_redis_url(url), read.flag("redis_sentinel_tls")
    if sentinel_tls and not address.tls:
        raise ConfigError(
            f"[{SECTION}] redis_sentinel_tls is True, but redis_url does not begin with rediss://. Sentinels use the ssl_ "
            "options of redis_url: write rediss:// there, or set redis_sentinel_tls to False."
        )
    for option in ("master", "username", "password"):
        if read.text(f"redis_sentinel_{option}") and not sentinels:
            raise ConfigError(
                f"[{SECTION}] redis_sentinel_{option} is set, but redis_sentinels is empty: set both, or neither."
            )
    if read.text("redis_sentinel_username") and not read.text("redis_sentinel_password"):
        raise ConfigError(f"[{SECTION}] redis_sentinel_username is set, but redis_sentinel_password is empty.")
    deployment = read.text("deployment")
    if not _DEPLOYMENT.match(deployment):
        raise ConfigError(
            f"[{SECTION}] deployment = {deployment!r} is invalid: use at most 40 lower-case letters, digits and dashes, with "
            "a letter or digit at both ends. The name becomes part of Redis keys and pod labels."
        )
    warm_pods_max, warm_pods_min = read.count("warm_pods_max", 0, 10_000), read.count("warm_pods_min", 0, 10_000)
    if warm_pods_min > warm_pods_max:
        raise ConfigError(
            f"[{SECTION}] warm_pods_min = {warm_pods_min} exceeds warm_pods_max = {warm_pods_max}: raise warm_pods_max, or "
            "lower warm_pods_min."
        )
    return Settings(
        redis_url=url,
        fernet_key=read.text("fernet_key") or core_fernet_key or "",
        deployment=deployment,
        redis_timeout_s=read.number("redis_timeout_s", 0.05, 1.0),
        redis_sentinels=sentinels,
        redis_sentinel_master=read.text("redis_sentinel_master"),
        redis_sentinel_username=read.text("redis_sentinel_username"),
        redis_sentinel_password=read.text("redis_sentinel_password"),
        redis_sentinel_tls=sentinel_tls,
        launcher_concurrency=read.count("launcher_concurrency", 1, 1024),
        launch_lease_s=read.number("launch_lease_s", 1.0, 600.0),
        token_margin_s=read.number("token_margin_s", 0.0, 86400.0),
        capacity_wait_s=read.number("capacity_wait_s", 0.0, 1e9),
        launch_retries_max=read.count_or_none("launch_retries_max", -1, 1_000_000_000),
        result_batch_size=read.count("result_batch_size", 1, 10_000),
        reconcile_interval_s=read.number("reconcile_interval_s", 0.2, 3600.0),
        results_max_length=read.count("results_max_length", 1000, 100_000_000),
        ledger_ttl_s=read.number("ledger_ttl_s", 60.0, 30 * 86400.0),
        watch_silence_s=read.number("watch_silence_s", 1.0, 3600.0),
        watch_lease_s=read.number("watch_lease_s", 1.0, 600.0),
        pending_grace_s=read.number("pending_grace_s", 0.0, 86400.0),
        failure_log_lines=read.count("failure_log_lines", 0, 1000),
        cleanup_concurrency=read.count("cleanup_concurrency", 1, 256),
        pod_policy=read.text("pod_policy"),
        workload_in_secret=read.flag("workload_in_secret"),
        warm_pods_max=warm_pods_max,
        warm_pods_min=warm_pods_min,
        warm_pod_idle_s=read.number("warm_pod_idle_s", 10.0, 86400.0),
        warm_assign_timeout_s=read.number("warm_assign_timeout_s", 0.2, 60.0),
        monitoring_bind=parse_monitoring_bind(read.text("monitoring_bind") or default_of("monitoring_bind")),
        ui_page=read.flag("ui_page"),
        dashboard_url=read.web_address("dashboard_url"),
    )


class _Reader:
    """Reads options as text or numbers; errors name the option."""

    def __init__(self, conf: Conf) -> None:
        self._conf = conf

    def text(self, option: str) -> str:
        # Airflow does not know the defaults of numbers, and in a plain checkout none at all.
        value = self._conf.get(SECTION, option, fallback=None)
        return default_of(option) if value is None else str(value).strip()

    def flag(self, option: str) -> bool:
        text = self.text(option) or default_of(option)
        value = _FLAGS.get(text.lower())
        if value is None:
            raise ConfigError(f"[{SECTION}] {option} = {text!r} is neither True nor False.")
        return value

    def web_address(self, option: str) -> str:
        """A URL for a browser, or empty."""
        text = self.text(option)
        if text and not re.fullmatch(r"https?://[^\s\"'<>]+", text):
            raise ConfigError(f"[{SECTION}] {option} = {text!r} is not a URL that begins with http:// or https://.")
        return text

    def number(self, option: str, low: float, high: float) -> float:
        return self._bounded(option, float, "a number", low, high)

    def count(self, option: str, low: int, high: int) -> int:
        return self._bounded(option, int, "a whole number", low, high)

    def count_or_none(self, option: str, low: int, high: int) -> int | None:
        return self.count(option, low, high) if self.text(option) else None

    def _bounded(self, option: str, kind: type[_Number], what: str, low: _Number, high: _Number) -> _Number:
        text = self.text(option) or default_of(option)
        try:
            value = kind(text)
        except ValueError as error:
            raise ConfigError(f"[{SECTION}] {option} = {text!r} is not {what}.") from error
        if not low <= value <= high:
            raise ConfigError(f"[{SECTION}] {option} = {text} must be between {low:.15g} and {high:.15g}.")
        return value


def _require_prefix_of_rq() -> None:
    prefix = os.environ.get("RQ_KEY_PREFIX", "rq")
    if prefix != "rq":
        raise ConfigError(
            f"The environment sets RQ_KEY_PREFIX to {prefix!r}, but podrelay's keys use RQ's own prefix, rq: unset it. "
            f"[{SECTION}] deployment separates several Airflows in one Redis."
        )
