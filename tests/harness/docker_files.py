"""The files of docker/ as the tools that read them see them: the compose file filled in, the manifests rendered."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
KUBERNETES = DOCKER / "kubernetes"
# The first minor version of kubectl 1 that renders the manifests.
OLDEST_KUBECTL = 27
_VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>[A-Z_]+)(?::-(?P<default>[^}]*)|:\?[^}]*)?\}")


def composed() -> Json:
    """The compose file with every variable filled in, as docker compose does: its default, or ./ and its name."""

    def fill(match: re.Match[str]) -> str:
        return match["default"] if match["default"] is not None else f"./{match['name'].lower()}"

    document: Json = yaml.safe_load(_VARIABLE.sub(fill, (DOCKER / "compose.yaml").read_text("utf-8")))
    return document


def service(name: str) -> Json:
    """One service of the compose file."""
    found: Json = composed()["services"][name]
    return found


def _minor_version(kubectl: str) -> int:
    words = [kubectl, "version", "--client", "--output", "json"]
    found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return int(found["clientVersion"]["minor"].rstrip("+"))


@functools.cache
def rendered(folder: Path) -> tuple[Json, ...]:
    """What `kubectl apply --kustomize` would send. Without kubectl the test is skipped, and fails in CI."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no kubectl")
    if _minor_version(kubectl) < OLDEST_KUBECTL:
        pytest.skip(f"needs kubectl 1.{OLDEST_KUBECTL}: Debian's may be older")
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def manifests() -> tuple[Json, ...]:
    """Those without an autoscaler."""
    return rendered(KUBERNETES / "base")


def of_kind(kind: str, among: Sequence[Json] | None = None) -> list[Json]:
    return [item for item in (manifests() if among is None else among) if item["kind"] == kind]


def named(kind: str, name: str, among: Sequence[Json] | None = None) -> Json:
    """The one object of this kind and name; the hash that kustomize adds to a ConfigMap's name does not count."""
    wanted = re.compile(re.escape(name) + ("(-[a-z0-9]{10})?" if kind == "ConfigMap" else ""))
    (found,) = [item for item in of_kind(kind, among) if wanted.fullmatch(item["metadata"]["name"])]
    return found


def selects(selector: Json, labels: Json) -> bool:
    """Does a label selector match? An empty one matches everything."""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    expressions = selector.get("matchExpressions", [])
    assert {item["operator"] for item in expressions} <= {"In"}
    return wanted and all(labels.get(item["key"]) in item["values"] for item in expressions)
