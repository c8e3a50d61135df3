"""How long, and how often, to try a launch for which Kubernetes has no capacity. Used by `process` and `launch_job`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from podrelay.settings import Settings

_SECTION, _OPTION = "kubernetes_executor", "task_publish_max_retries"


@dataclass(frozen=True)
class WaitLimit:
    """How long a launch may wait for capacity since its offer, and how often it may be tried (None: any number)."""

    wait_s: float
    tries_max: int | None = None

    def exceeded(self, waited_s: float, tries: int) -> bool:
        """Pure: has a launch that waited this long, and was tried this often before, reached the limit?"""
        return waited_s > self.wait_s > 0 or (self.tries_max is not None and tries >= self.tries_max)


def load_wait_limit(conf: Any, settings: Settings, team: str | None = None) -> WaitLimit:
    """Read the limit; `task_publish_max_retries` counts only where the user has set it.

    Its default, 0, makes the stock executor fail a task at the first throttled request.
    """
    wait_s = settings.capacity_wait_s or conf.getfloat("scheduler", "task_queued_timeout", fallback=600.0)
    if not _is_set(conf, team):
        return WaitLimit(wait_s)
    tries_max = conf.getint(_SECTION, _OPTION, **({"team_name": team} if team else {}))
    return WaitLimit(wait_s, tries_max if tries_max >= 0 else None)


def _is_set(conf: Any, team: str | None) -> bool:
    known = conf.as_dict(display_source=True)
    if team is None:
        return "default" not in str((known.get(_SECTION, {}).get(_OPTION) or ("", "default"))[1])
    # An option of a team has no default: without its prefix it is another option.
    name = f"AIRFLOW__{team}___{_SECTION}__{_OPTION}".upper()
    return name in os.environ or _OPTION in known.get(f"{team}={_SECTION}", {})
