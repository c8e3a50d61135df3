"""How long, and how often, to try a launch for which Kubernetes has no capacity.

Used by `process` and `launch_job`, and by `airflow podrelay check`, which shows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from podrelay.errors import ConfigError
from podrelay.settings import SECTION, Settings

_STOCK_SECTION, _STOCK_OPTION = "kubernetes_executor", "task_publish_max_retries"


@dataclass(frozen=True)
class WaitLimit:
    """How long a launch may wait for capacity since its offer, and how often it may be tried (None: any number).

    `explanation` names the options that decide.
    """

    wait_s: float
    tries_max: int | None = None
    explanation: str = field(default="", compare=False)

    def exceeded(self, waited_s: float, tries: int) -> bool:
        """Pure: has a launch that waited this long, and was tried this often before, reached the limit?"""
        return waited_s > self.wait_s > 0 or (self.tries_max is not None and tries >= self.tries_max)


def load_wait_limit(conf: Any, settings: Settings, team: str | None = None) -> WaitLimit:
    """Read the limit.

    A stock task_publish_max_retries of 0 does not count, whoever wrote it: Airflow writes this default into each airflow.cfg
    that it generates, and it makes the stock executor fail a task at the first throttled request.

    :raises ConfigError: an option is invalid.
    """
    wait_s, source = settings.capacity_wait_s, f"[{SECTION}] capacity_wait_s"
    if not wait_s:
        wait_s = conf.getfloat("scheduler", "task_queued_timeout", fallback=600.0)
        source = "[scheduler] task_queued_timeout"
    tries_max, limit = _tries_max(conf, settings, team)
    return WaitLimit(wait_s, tries_max, f"launches wait up to {wait_s:g} s ({source}), {limit}")


def _tries_max(conf: Any, settings: Settings, team: str | None) -> tuple[int | None, str]:
    """The number of repeated tries, None for any number, and why."""
    from airflow.exceptions import AirflowConfigException

    own = settings.launch_retries_max
    if own is not None:
        source = f"[{SECTION}] launch_retries_max = {own}"
        if own < 0:
            return None, f"however often tried ({source})"
        return own, f"with at most {own} retries ({source})"
    try:
        stock = conf.getint(_STOCK_SECTION, _STOCK_OPTION, fallback=0, **({"team_name": team} if team else {}))
    except (AirflowConfigException, ValueError) as error:
        raise ConfigError(f"[{_STOCK_SECTION}] {_STOCK_OPTION} is invalid: {error}") from error
    source = f"[{_STOCK_SECTION}] {_STOCK_OPTION} = {stock}"
    if stock > 0:
        return stock, f"with at most {stock} retries ({source})"
    if stock == 0:
        source += f", which does not count; [{SECTION}] launch_retries_max would"
    return None, f"however often tried ({source})"
