"""The texts of `airflow podrelay ... --help`, as Airflow prints them."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.cli.cli_config import ActionCommand
from rich.text import Text

from podrelay.cli.definitions import get_podrelay_cli_commands

(GROUP,) = get_podrelay_cli_commands()
COMMANDS = [command for command in GROUP.subcommands if isinstance(command, ActionCommand)]
TEXTS = [GROUP.help, *(command.help for command in COMMANDS)] + [
    str(arg.kwargs["help"]) for command in COMMANDS for arg in command.args if "help" in arg.kwargs
]


@pytest.mark.parametrize("text", sorted(set(TEXTS)))
def test_no_part_of_a_text_is_taken_for_markup(text: str) -> None:
    """Airflow prints help through rich, where a word in brackets is a style and vanishes."""
    assert Text.from_markup(text).plain == text


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_help_of_a_command_is_complete(command: ActionCommand, capsys: pytest.CaptureFixture[str]) -> None:
    from airflow.cli import cli_parser

    parser = cli_parser.get_parser()
    with pytest.raises(SystemExit):
        parser.parse_args(["podrelay", command.name, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for arg in command.args:
        flags, text = arg.flags, str(arg.kwargs.get("help", ""))
        assert flags[0] in shown
        assert "".join(text.split()) in "".join(shown.split())
        choices: Any = arg.kwargs.get("choices")
        if choices:
            assert "{" + ",".join(choices) + "}" in shown.replace(", ", ",")
