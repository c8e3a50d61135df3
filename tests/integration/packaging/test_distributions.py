"""Wheel and sdist: the same bytes whoever builds them, what belongs in them and no more, metadata that indexes accept."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from readme_renderer import markdown
from trove_classifiers import classifiers

ROOT = Path(__file__).resolve().parents[3]
INPUTS = ("executor", "workers", "pyproject.toml", "README.md", "LICENSE", "NOTICE", ".gitignore")
PACKAGES = {"executor/podrelay": "podrelay", "workers/podrelay_workers": "podrelay_workers"}
EPOCH = "1764230400"


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path

    @property
    def metadata(self) -> Metadata:
        with zipfile.ZipFile(self.wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
            return Metadata.from_email(archive.read(name), validate=True)


def build(source: Path, target: Path, *, umask: int = 0o022, **environment: str) -> Built:
    """Build both as `make dist` does."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(target)],
        cwd=source, env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH, **environment}, umask=umask,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (sdist,) = target.glob("*.whl"), target.glob("*.tar.gz")
    return Built(wheel, sdist)


def copy(target: Path) -> Path:
    """What a build needs, and some of what lies beside it in a checkout."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in INPUTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignored)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / name)
    shutil.copytree(ROOT / "tests" / "harness", target / "tests" / "harness", ignore=ignored)
    shutil.copytree(ROOT / "local_cluster", target / "local_cluster", ignore=ignored)
    return target


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("first")
    return build(copy(folder / "source"), folder / "dist")


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_two_builds_are_the_same_to_the_byte(built: Built, tmp_path: Path) -> None:
    """In another folder, later, with other rights of the files, another umask, time zone and language."""
    source = copy(tmp_path / "elsewhere" / "deep")
    for path in source.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (2_000_000_000, 2_000_000_000))
    again = build(source, tmp_path / "dist", umask=0o077, TZ="Asia/Tokyo", LC_ALL="C", PYTHONHASHSEED="7")
    assert sha(again.wheel) == sha(built.wheel)
    assert sha(again.sdist) == sha(built.sdist)


def test_the_wheel_of_the_sdist_is_the_wheel_of_the_checkout(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert sha(build(source, tmp_path / "dist").wheel) == sha(built.wheel)


def sources() -> Iterator[str]:
    """Paths of the files of the two packages."""
    for folder in PACKAGES:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(ROOT).as_posix()


def test_the_sdist_holds_what_a_build_needs_and_nothing_else(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    beside = {"README.md", "LICENSE", "NOTICE", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert names == {*sources(), *beside}


def test_the_wheel_holds_the_packages_and_their_licences(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
        notice = archive.read(next(name for name in names if name.endswith("/licenses/NOTICE"))).decode()
    metadata = {name for name in names if ".dist-info/" in name}
    expected = {re.sub("^(executor|workers)/", "", name) for name in sources()}
    assert names - metadata == expected
    assert {name.partition("/")[2] for name in metadata} >= {"METADATA", "RECORD", "WHEEL", "entry_points.txt"}
    for package in PACKAGES.values():
        assert f"{package}/py.typed" in names
    for name in expected:  # what others wrote is named, with its licence
        if "/vendor/" in name and name.endswith(".LICENSE"):
            assert Path(name).stem in notice
            assert f"licenses/executor/{name}" in {entry.partition("/")[2] for entry in metadata}


def test_the_metadata_is_valid_and_complete(built: Built) -> None:
    found = built.metadata
    assert found.metadata_version == "2.4"
    assert found.license_expression == "Apache-2.0 AND MIT"
    assert found.license is None  # PEP 639
    assert not [name for name in found.classifiers or [] if name.startswith("License ::")]
    assert set(found.classifiers or []) <= classifiers
    assert {"LICENSE", "NOTICE"} <= set(found.license_files or [])
    assert found.keywords
    assert found.summary
    assert found.project_urls is None  # the repository has no public address yet


def test_the_classifiers_name_every_python_that_is_supported(built: Built) -> None:
    named = re.findall(r"Python :: (3\.\d+)$", "\n".join(built.metadata.classifiers or []), re.MULTILINE)
    specifier = built.metadata.requires_python
    assert specifier is not None
    assert [version for version in (f"3.{minor}" for minor in range(9, 20)) if f"{version}.5" in specifier] == named


def test_the_description_renders_without_pictures_and_relative_links(built: Built) -> None:
    found = built.metadata
    assert found.description_content_type == "text/markdown"
    assert found.description is not None
    page = markdown.render(found.description)
    assert page is not None
    assert "airflow podrelay check" in re.sub("<[^>]*>", "", page)
    assert "<table>" in page
    assert "mermaid" not in page
    assert "<img" not in page
    addresses = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert [address for address in addresses if not address.startswith(("https://", "#", "mailto:"))] == []
    for path in re.findall(r"<code>((?:docs|tests)/[\w./]+)</code>", page):
        assert (ROOT / path).exists()
