"""The files around the code say what is true of the code: pins, commands, pages, imports, distributions."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from importlinter import cli as import_linter
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import podrelay
from docs import options_page
from podrelay.cli.definitions import get_podrelay_cli_commands
from podrelay.get_provider_info import OPTIONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "docker" / "kubernetes"
PAGES = [
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def project() -> dict[str, Any]:
    document: dict[str, Any] = tomllib.loads(read("pyproject.toml"))["project"]
    return document


def pinned() -> set[str]:
    return {canonicalize_name(line.partition("==")[0]) for line in read("constraints.txt").splitlines()}


# --- pins and prose -----------------------------------------------------------------------------------------------


def test_constraints_are_pins_and_nothing_else() -> None:
    """No index address, hash or path could stand in a line of this form."""
    line = re.compile(r"[a-z0-9][a-z0-9._-]*==[A-Za-z0-9.+!]+( ; [^/@]+)?")
    assert [text for text in read("constraints.txt").splitlines() if not line.fullmatch(text)] == []


def test_every_dependency_is_pinned() -> None:
    extras = [item for items in project()["optional-dependencies"].values() for item in items]
    wanted = {canonicalize_name(Requirement(item).name) for item in project()["dependencies"] + extras}
    assert wanted - {"podrelay"} - pinned() == set()


def test_one_version() -> None:
    assert project()["version"] == podrelay.__version__
    assert "## [Unreleased]" in read("CHANGELOG.md") or f"## [{podrelay.__version__}]" in read("CHANGELOG.md")
    assert f"newTag: {podrelay.__version__}\n" in (KUBERNETES / "base" / "kustomization.yaml").read_text()


@pytest.mark.parametrize("name", [*PAGES, "Procfile", "docker/compose.yaml", "demo/stack.py"])
def test_commands_exist(name: str) -> None:
    (group,) = get_podrelay_cli_commands()
    known = {command.name for command in group.subcommands}
    text = re.sub(r'[",]', "", read(name))
    assert set(re.findall(r"podrelay (launcher|watcher|status|check|dashboard|local-cluster)", text)) <= known
    assert set(re.findall(r"airflow podrelay ([a-z][a-z-]*)", text)) <= known


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_names_exists(name: str) -> None:
    text = read(name)
    for module in re.findall(r"python -m (\w[\w.]*\w)", text):
        assert importlib.util.find_spec(module), module
    for path in re.findall(r"`((?:tests|docs|docker|demo|executor|workers)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", read("Makefile"), re.MULTILINE), target
    for option in re.findall(r"\[podrelay\] ([a-z_]+)\b(?!:)", text):
        assert option in OPTIONS, option


def test_readme_names_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert {"demo", "up", "test", "lint", "bench", "clean"} <= targets
    assert set(re.findall(r"\bmake ([a-z-]+)", read("README.md"))) <= targets


DISTRIBUTIONS = ("executor/podrelay", "workers/podrelay_workers", "local_cluster/podrelay_local_cluster")
# Those whose docstring lists their modules. A package of a few modules may have none, but never `podrelay` itself.
DESCRIBED = sorted(
    str(path.parent.relative_to(ROOT))
    for distribution in DISTRIBUTIONS
    for path in (ROOT / distribution).rglob("__init__.py")
    if path.read_text("utf-8").strip() or distribution.endswith(path.parent.name)
)


@pytest.mark.parametrize("package", DESCRIBED)
def test_a_package_says_what_each_of_its_modules_is_for(package: str) -> None:
    """Each module and each package in it begins a line, alone or with others, followed by two spaces or a colon."""
    folder = ROOT / package
    heads = re.findall(r"^ *(\w+/?(?:, \w+/?)*)(?:  +|: )\S", read(f"{package}/__init__.py"), re.MULTILINE)
    described = set(re.findall(r"\w+", " ".join(heads)))
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert modules - {"__init__", "__main__"} - described == set()


def test_make_help_lists_every_target() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.+)$", read("Makefile"), re.MULTILINE)
    listed = re.findall(r"^\t@echo 'make ([a-z-]+)", read("Makefile"), re.MULTILINE)
    assert {"help", *listed} == set(phony.split())


EVERYTHING = (
    "--numprocesses=3 --no-loadscope-reorder "
    "tests/unit tests/end_to_end tests/chaos tests/fuzz tests/integration tests/benchmarks tests/real_cluster"
)


@pytest.mark.parametrize(
    ("target", "given", "paths"),
    [
        ("test", "", EVERYTHING),
        ("test", "-k fence", f"{EVERYTHING} -k fence"),
        ("test", "tests/unit", "tests/unit"),
        ("test", "tests/unit/cli -x -k 'a or b'", "tests/unit/cli -x -k 'a or b'"),
        ("unit", "", "tests/unit"),
        ("unit", "tests/unit/test_health.py::test_x", "tests/unit/test_health.py::test_x"),
    ],
)
def test_paths_for_pytest_replace_those_of_the_target(target: str, given: str, paths: str) -> None:
    command = ["make", "-n", target, f"PYTEST={given}"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in shown.splitlines() if "-m pytest" in line]
    assert line.partition("-m pytest ")[2].split() == paths.split()


def test_options_page_is_up_to_date() -> None:
    assert read("docs/options.md") == options_page.render(), "run: make options"


def test_procfile_is_the_two_workers() -> None:
    assert yaml.safe_load(read("Procfile")) == {
        "launcher": "podrelay launcher",
        "watcher": "podrelay watcher",
    }


@pytest.mark.parametrize("worker", ["launcher", "watcher"])
def test_systemd_units(worker: str, tmp_path: Path) -> None:
    unit = read(f"docker/systemd/podrelay-{worker}@.service")
    assert f"/podrelay {worker}\n" in unit
    assert "\nRestart=always\n" in unit
    for privilege in ("NoNewPrivileges=true", "CapabilityBoundingSet=", "ProtectSystem=full", "PrivateDevices=true"):
        assert f"\n{privilege}\n" in unit
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on the PATH")
    program = re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", unit).replace("User=airflow", "User=root")
    path = tmp_path / f"podrelay-{worker}@1.service"
    path.write_text(program.replace("EnvironmentFile=/", "EnvironmentFile=-/"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    about_it = [line for line in done.stderr.splitlines() if path.name in line]
    assert (done.returncode, about_it) == (0, []), done.stderr
    # What systemd itself says about the exposure of a service: 20 of 100 at most.
    path.write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_short_pages_stay_short() -> None:
    assert len(read("README.md").splitlines()) <= 130
    changes = [line for line in read("CHANGELOG.md").splitlines() if line.startswith("- ")]
    assert len(changes) <= 20 * max(1, read("CHANGELOG.md").count("\n## ["))


# --- imports ------------------------------------------------------------------------------------------------------


def test_import_arrows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert import_linter.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


# --- distributions ------------------------------------------------------------------------------------------------


def wheel(root: Path) -> set[str]:
    """The paths of all files that the build backend puts into the wheel of a distribution, except metadata."""
    return {included.distribution_path for included in WheelBuilder(str(root)).recurse_included_files()}


def test_the_wheel_holds_executor_and_workers_only() -> None:
    """In particular neither tests nor the local cluster."""
    sources = [(ROOT / root, package) for root, package in [("executor", "podrelay"), ("workers", "podrelay_workers")]]
    assert wheel(ROOT) == {
        str(path.relative_to(root))
        for root, package in sources
        for path in (root / package).rglob("*")
        if path.suffix in (".py", ".lua") or path.name == "py.typed" or (path.is_file() and "static" in path.parts)
    }


def test_the_local_cluster_is_a_separate_distribution() -> None:
    assert {Path(name).parts[0] for name in wheel(ROOT / "local_cluster")} == {"podrelay_local_cluster"}
