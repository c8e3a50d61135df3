"""Writes `docs/options.md` from `podrelay.get_provider_info.OPTIONS`: `make options`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from podrelay.get_provider_info import OPTIONS

PAGE = Path(__file__).with_name("options.md")

_INTRODUCTION = """\
# Options of `[podrelay]`

Set an option in the section `[podrelay]` of `airflow.cfg`, or in the environment as `AIRFLOW__PODRELAY__<OPTION>`, such as
`AIRFLOW__PODRELAY__REDIS_URL`. Schedulers, launchers, watchers and API servers all read this section: give every process of a
deployment the same values. `airflow podrelay check` validates them.

Options that the stock executor has as well are read from `[kubernetes_executor]`: the pod template, the namespaces, the
kubeconfig, and what happens to finished pods. Option names that end in `_s` hold seconds.

This page is generated from `executor/podrelay/get_provider_info.py` by `make options`.

| option | type | default | meaning |
|---|---|---|---|
"""


def render() -> str:
    """The whole page."""
    return _INTRODUCTION + "".join(_row(name, option) for name, option in OPTIONS.items())


def _row(name: str, option: dict[str, Any]) -> str:
    meaning = option["description"].strip()
    if option["example"]:
        meaning += f" Example: `{option['example']}`."
    default = f"`{option['default']}`" if option["default"] else "empty"
    cells = (f"`{name}`", option["type"], default, meaning)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


if __name__ == "__main__":
    PAGE.write_text(render(), "utf-8")
