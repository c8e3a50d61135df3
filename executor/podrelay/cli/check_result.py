"""The result of one check of `airflow podrelay check`, and how a step becomes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from podrelay.errors import PodrelayError


@dataclass(frozen=True)
class Check:
    """The result of one check; `detail` is what was found or, where it failed, what to change."""

    name: str
    ok: bool
    detail: str
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "ok": self.ok, "detail": self.detail, "warnings": list(self.warnings)}


@dataclass(frozen=True)
class Passed:
    """What a step found that did not fail. `warnings` work, but probably not as their author meant them."""

    detail: str
    warnings: tuple[str, ...] = ()


def run_step(name: str, step: Callable[[], Passed]) -> Check:
    try:
        passed = step()
    except PodrelayError as error:
        return Check(name, False, str(error))
    except Exception as error:  # noqa: BLE001  a check that cannot be made has failed, for whatever reason
        return Check(name, False, f"{type(error).__name__}: {error}")
    return Check(name, True, passed.detail, passed.warnings)
