"""The docstring of each package of the local cluster names its modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import podrelay_local_cluster

ROOT = Path(podrelay_local_cluster.__file__).parent
PACKAGES = [ROOT, *sorted(path.parent for path in ROOT.glob("*/__init__.py"))]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.name))
def test_a_package_names_its_modules(package: Path) -> None:
    named = re.findall(r"^([\w/, ]+?)  +\S", (package / "__init__.py").read_text("utf-8"), re.MULTILINE)
    names = {name.strip().rstrip("/") for entry in named for name in entry.split(",")}
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert names == modules | {path.parent.name for path in package.glob("*/__init__.py")}
