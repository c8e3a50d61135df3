"""What `airflow podrelay check` says about options: the executor, misspelt names, old defaults, limits of launches."""

from __future__ import annotations

import difflib
import importlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from airflow.configuration import conf

from podrelay.cli.check_result import Passed
from podrelay.errors import ConfigError
from podrelay.get_provider_info import FORMER_DEFAULTS, OPTIONS, default_of
from podrelay.settings import SECTION, Settings

EXECUTOR = "podrelay.executor.RedisKubernetesExecutor"
_STOCK_EXECUTORS = frozenset({"LocalExecutor", "CeleryExecutor", "KubernetesExecutor", "SequentialExecutor"})
_ENVIRONMENT = f"AIRFLOW__{SECTION.upper()}__"
_LIKE_OURS = re.compile(rf"AIRFLOW_+(?:(?P<team>\w+?)_+)?{SECTION}_+(?P<option>\w+)", re.IGNORECASE)
# Airflow also reads an option from a command or a secret.
_INDIRECT = re.compile(r"_(cmd|secret)$")


# --- executor -----------------------------------------------------------------------------------------------------
def check_executor(team: str | None) -> Passed:
    """Do schedulers load podrelay for this team?

    :raises ConfigError: [core] executor does not name it, or names an executor that cannot be loaded.
    """
    value = conf.get("core", "executor", fallback="") or ""
    names = executors_of(value, team)
    for name in names:
        path = name.rpartition(":")[2]
        if path not in _STOCK_EXECUTORS and is_ours(path, value):
            if name == names[0]:
                return Passed(value)
            return Passed(value, (f"{names[0]} is the default: only tasks with executor={path!r} use podrelay.",))
    whose = f" for team {team}" if team else ""
    raise ConfigError(
        f"[core] executor = {value} does not name podrelay{whose}: set it to "
        f"{f'...;{team}=' if team else ''}{EXECUTOR} for schedulers and API servers."
    )


def executors_of(value: str, team: str | None) -> list[str]:
    """Pure: the executors of a team in `[core] executor`, such as `LocalExecutor;red=module.Class,alias:module.Class`."""
    for part in value.split(";"):
        owner, _, names = part.rpartition("=")
        if owner.strip() == (team or ""):
            return [name.strip() for name in names.split(",") if name.strip()]
    return []


def is_ours(path: str, value: str) -> bool:
    """:raises ConfigError: there is no such class."""
    try:
        ours, found = (_load(each) for each in (EXECUTOR, path))
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"[core] executor = {value}: {path} cannot be imported ({error}). podrelay's executor is {EXECUTOR}."
        ) from error
    return isinstance(found, type) and issubclass(found, ours)


def _load(path: str) -> Any:
    module, _, name = path.rpartition(".")
    if not module:
        raise ImportError("it names no module")
    return getattr(importlib.import_module(module), name)


# --- names and defaults -------------------------------------------------------------------------------------------
def check_names() -> None:
    """:raises ConfigError: names every option of ours that Airflow's configuration holds and podrelay does not know."""
    sections = {name: conf.getsection(name) or {} for name in conf.sections()}
    unknown = [*_unknown_in_file(sections), *unknown_variables(os.environ)]
    if unknown:
        raise ConfigError("; ".join(unknown) + ". docs/options.md lists all options.")


def _unknown_in_file(sections: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for section, options in sections.items():
        if section == SECTION:
            yield from (f"[{SECTION}] {name} is unknown{_hint(name)}" for name in options if not _is_known(name))
        elif section.endswith(f"={SECTION}"):
            yield f"[{section}] is not read: all teams share [{SECTION}]"
        elif section in difflib.get_close_matches(SECTION, [section], cutoff=0.8):
            yield f"[{section}] is not read: did you mean [{SECTION}]?"


def unknown_variables(names: Iterable[str]) -> Iterator[str]:
    """Pure: environment variables that look like options of ours and are none.

    Kubernetes sets variables such as AIRFLOW_PODRELAY_PORT for a Service airflow-podrelay: those are none.
    """
    for name in sorted(names):
        found = _LIKE_OURS.fullmatch(name)
        if found is None:
            continue
        option = found["option"].lower()
        if name.startswith(_ENVIRONMENT):
            if not _is_known(option):
                yield f"{name} is unknown{_hint(option)}"
        elif _is_known(option):
            why = (
                f"all teams share [{SECTION}]" if found["team"] else f"the name of an option begins with {_ENVIRONMENT}"
            )
            yield f"{name} is not read: {why}"


def _is_known(name: str) -> bool:
    return name in OPTIONS or _INDIRECT.sub("", name) in OPTIONS


def _hint(name: str) -> str:
    close = difflib.get_close_matches(name, OPTIONS, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def old_defaults(written: Mapping[str, str], former: Mapping[str, tuple[str, ...]] = FORMER_DEFAULTS) -> Iterator[str]:
    """Pure: what airflow.cfg holds only because an Airflow generated it with an earlier release of podrelay.

    :param written: the options of ours in the file.
    """
    for name, value in written.items():
        if value in former.get(name, ()) and value != default_of(name):
            yield f"[{SECTION}] {name} = {value} was the default of an earlier release; it is {default_of(name)} now."
    # Airflow writes only texts into the files that it generates now, and their defaults stay.
    numbers = {name for name, option in OPTIONS.items() if option["type"] != "string"}
    repeated = [name for name, value in written.items() if name in numbers and value and value == default_of(name)]
    if repeated:
        yield (
            f"airflow.cfg repeats defaults: delete these lines from [{SECTION}], so that the defaults of a later release "
            f"apply: {', '.join(repeated)}."
        )


def written_in_file() -> dict[str, str]:
    """The options of ours that airflow.cfg sets; not those of the environment, which nothing generates."""
    known = conf.as_dict(display_source=True, display_sensitive=True, raw=True).get(SECTION, {})
    return {name: str(value[0]).strip() for name, value in known.items() if value[1] == "airflow.cfg"}


# --- limits -------------------------------------------------------------------------------------------------------
def check_wait_limit(settings: Settings, team: str | None) -> Passed:
    """How long launches wait, and which options decide that."""
    wait_limit: Any = importlib.import_module("podrelay_workers.launcher.wait_limit")
    return Passed(wait_limit.load_wait_limit(conf, settings, team).explanation)


def check_tokens(settings: Settings) -> Passed:
    """Is the life of a task's token long enough for the margin?"""
    life_s = conf.getfloat("scheduler", "task_queued_timeout", fallback=600.0)
    tokens: Any = importlib.import_module("podrelay_workers.launcher.token_check")
    margin_s = tokens.margin_of(life_s, settings.token_margin_s)
    found = f"valid for {life_s:g} s; a pod is created until {margin_s:g} s before the end"
    if margin_s == settings.token_margin_s:
        return Passed(found)
    warning = (
        f"[{SECTION}] token_margin_s = {settings.token_margin_s:g} exceeds a quarter of the life of a token, which is "
        f"[scheduler] task_queued_timeout = {life_s:g}: {margin_s:g} s apply."
    )
    return Passed(found, (warning,))
