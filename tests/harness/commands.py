"""Runs `airflow podrelay ...` commands in this process, as Airflow's command line does."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import cast

import pytest
from airflow.cli.cli_config import ActionCommand

from podrelay.cli.definitions import get_podrelay_cli_commands


def type_command(name: str, *words: str) -> int:
    """The exit code of `airflow podrelay NAME WORDS`; what it prints goes where that of the test goes."""
    (group,) = get_podrelay_cli_commands()
    command = next(item for item in group.subcommands if item.name == name)
    assert isinstance(command, ActionCommand)
    parser = argparse.ArgumentParser(name)
    for arg in command.args:
        arg.add_to_parser(parser)
    run = cast(Callable[[argparse.Namespace], None], command.func)
    with pytest.raises(SystemExit) as ended:
        run(parser.parse_args(words))
    return cast(int, ended.value.code)
