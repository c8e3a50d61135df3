"""Commands that need another distribution name it and the remedy in one line where it is not installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from podrelay.cli import commands
from podrelay.cli.optional import import_optional
from podrelay.errors import ConfigError

LOCAL_CLUSTER = argparse.Namespace(
    port=0, kubeconfig_out="kubeconfig", namespaces="default", runner="process", data_dir=None
)
DASHBOARD = argparse.Namespace(bind="127.0.0.1", port=0, read_only=False)


class Missing:
    """An import hook that finds one package nowhere, as if its distribution were not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def uninstall(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def apply(package: str) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Missing(package), *sys.meta_path])

    return apply


@pytest.mark.parametrize(
    ("package", "command", "arguments", "remedy"),
    [
        ("podrelay_local_cluster", commands.local_cluster, LOCAL_CLUSTER, "pip install ./local_cluster"),
        ("rq_dashboard", commands.dashboard, DASHBOARD, "pip install 'podrelay[dashboard]'"),
    ],
)
def test_a_missing_distribution_is_one_line_with_the_remedy(
    uninstall: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
    package: str,
    command: Callable[[argparse.Namespace], None],
    arguments: argparse.Namespace,
    remedy: str,
) -> None:
    uninstall(package)
    with pytest.raises(SystemExit) as stopped:
        command(arguments)
    assert stopped.value.code == commands.USAGE_ERROR
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert f"{package} is not installed" in line
    assert "needs" not in line
    assert remedy in line


@pytest.mark.parametrize("package", ["six", "flask", "redis_sentinel_url", "rq_dashboard.legacy"])
def test_a_package_that_the_distribution_needs_is_named(
    package: str, tmp_path: Path, uninstall: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the distribution, which is installed."""
    missing = package.partition(".")[0]
    (tmp_path / "an_optional_package.py").write_text(f"import {package}\n")
    monkeypatch.syspath_prepend(tmp_path)
    uninstall(missing)
    with pytest.raises(ConfigError) as error:
        import_optional("an_optional_package", "install it.")
    assert str(error.value) == f"the package {missing}, which an_optional_package needs, is not installed; install it."


@pytest.mark.parametrize(
    "fault", ["import json.no_such_module", "from json import no_such_name", "raise ImportError('no')"]
)
def test_a_fault_inside_an_installed_distribution_keeps_its_own_error(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "an_optional_package.py").write_text(fault + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError) as error:
        import_optional("an_optional_package", "install it.")
    assert not isinstance(error.value, ConfigError)
    assert "install it" not in str(error.value)
