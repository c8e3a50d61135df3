"""`make airflow-matrix`: installs the wheel of `dist/` beside each supported Airflow, and runs it there.

For each release of Airflow: a fresh environment with plain Airflow and its Kubernetes provider, README's line on top, then a
comparison of what is installed, and podrelay's commands. Airflow's own constraints files are on no package index; the nearest
is what an index had soon after the release, `--as-of`. It needs a package index, about a minute and 1 GB per release.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROVIDER = "apache-airflow-providers-cncf-kubernetes"
PROVIDER_MIN = (10, 21)
# What an older provider needs in order to become new enough.
OF_THE_PROVIDER = {PROVIDER, "apache-airflow-providers-common-compat", "kubernetes", "kubernetes-asyncio"}
# The first and the last release of each supported minor of Airflow, with a day soon after it.
RELEASES = {
    "3.1.0": "2025-10-15", "3.1.8": "2026-03-15", "3.2.0": "2026-04-30", "3.2.2": "2026-06-15", "3.3.0": "2026-07-15",
    "3.3.2": "2026-10-15",
}  # fmt: skip
# What podrelay brings that Airflow and its Kubernetes provider do not.
ADDED = {"hiredis", "podrelay", "prometheus-client", "redis", "rq"}
_RUN = """
import podrelay.executor, podrelay.ui.app, podrelay_workers.launcher.start, podrelay_workers.watcher.start
import podrelay_workers.launcher.process, podrelay_workers.launcher.provider_rendering, podrelay_workers.watcher.process
podrelay.ui.app.build()
from airflow.providers_manager import ProvidersManager
assert "podrelay" in ProvidersManager().providers, sorted(ProvidersManager().providers)
from airflow.executors.executor_loader import ExecutorLoader
found, _ = ExecutorLoader.import_default_executor_cls()
assert found is podrelay.executor.RedisKubernetesExecutor, found
"""


class Environment:
    """One virtual environment in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        run([uv(), "venv", "--quiet", "--python", sys.executable, str(folder)])

    def install(self, *words: str) -> None:
        run([uv(), "pip", "install", "--quiet", "--system-certs", "--python", str(self.python), *words])

    def frozen(self) -> dict[str, str]:
        lines = run([uv(), "pip", "freeze", "--python", str(self.python)]).splitlines()
        return {name: version.rpartition("/")[2] for name, version in (re.split("==| @ ", line) for line in lines)}

    def run(self, *words: str, ok: Sequence[int] = (0,)) -> str:
        environment = {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "AIRFLOW_HOME": str(self.folder / "home"),
            "AIRFLOW__CORE__EXECUTOR": "podrelay.executor.RedisKubernetesExecutor",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__PODRELAY__REDIS_URL": "redis://127.0.0.1:1/0",
        }
        return run([str(self.folder / "bin" / words[0]), *words[1:]], environment=environment, ok=ok)


def uv() -> str:
    return str(Path(sys.executable).with_name("uv"))


def run(command: Sequence[str], *, environment: Mapping[str, str] | None = None, ok: Sequence[int] = (0,)) -> str:
    """:raises RuntimeError: the command failed; with what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode not in ok:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Pure: what was added or updated as documented, and what must not have changed."""
    allowed = ADDED | (OF_THE_PROVIDER if _is_old(before[PROVIDER]) else set())
    expected: list[str] = []
    wrong: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            line = f"{name} {before.get(name, 'none')} -> {after.get(name, 'none')}"
            (expected if name in allowed and name in after else wrong).append(line)
    return expected, wrong


def _is_old(version: str) -> bool:
    return tuple(int(part) for part in version.split(".")[:2]) < PROVIDER_MIN


def try_release(airflow: str, as_of: str, wheel: Path, folder: Path) -> list[str]:
    """What is wrong beside this Airflow; prints what was found."""
    environment = Environment(folder)
    limit = ["--exclude-newer", as_of] if as_of else []
    environment.install(*limit, f"apache-airflow=={airflow}", PROVIDER)
    before = environment.frozen()
    # README's line, with the wheel instead of a checkout.
    environment.install(str(wheel), f"apache-airflow=={airflow}")
    expected, wrong = changes(before, environment.frozen())
    print(f"Airflow {airflow}{f' as of {as_of}' if as_of else ''}, {len(before)} packages: {'; '.join(expected)}")
    try:
        environment.run("python", "-c", _RUN)
        # No Redis is there: the check must say so, and end as it documents.
        checked = environment.run("airflow", "podrelay", "check", "--json", ok=(1,))
        document = json.loads(checked[checked.index("{") :])
        names = {check["name"]: check["ok"] for check in document["checks"]}
        wrong += [] if names.get("executor") and names.get("Redis") is False else [f"check said {document}"]
    except (RuntimeError, ValueError) as error:
        wrong.append(str(error))
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--airflow", nargs="*", default=list(RELEASES), help="releases of Airflow")
    parser.add_argument("--as-of", default=None, metavar="DATE", help="what the index had then (YYYY-MM-DD)")
    options = parser.parse_args()
    (wheel,) = (ROOT / "dist").glob("*.whl")
    failed = False
    for airflow in options.airflow:
        as_of = RELEASES.get(airflow, "") if options.as_of is None else options.as_of
        with tempfile.TemporaryDirectory(prefix="podrelay-matrix-") as folder:
            for problem in try_release(airflow, as_of, wheel, Path(folder) / "env"):
                failed = True
                print(f"FAIL {problem}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
