"""Two builds side by side: the same parts of this checkout and of another one, in turn, and the ratio of each measure.

The other checkout must have its own `.venv` (`make lint` there makes one) and the same parts.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def compare(other: Path, parts: Sequence[str], options: Sequence[str], turns: int) -> str:
    """Run each part `turns` times in both builds, alternating which begins. A Markdown table of medians.

    :raises RuntimeError: a build could not measure a part; the message holds the end of its output.
    """
    measured: dict[str, dict[Path, list[float]]] = {}
    for part in parts:
        for turn in range(turns):
            builds = (ROOT, other) if turn % 2 == 0 else (other, ROOT)
            for build in builds:
                for measure, value in _measure(build, part, options):
                    measured.setdefault(measure, {}).setdefault(build, []).append(value)
    lines = ["| measure | this build | other build | this / other |", "|---|---|---|---|"]
    for measure, values in measured.items():
        ours, theirs = (statistics.median(values[build]) if build in values else None for build in (ROOT, other))
        ratio = f"{ours / theirs:.2f}" if ours is not None and theirs else ""
        lines.append(f"| {measure} | {_number(ours)} | {_number(theirs)} | {ratio} |")
    return "\n".join(lines)


def _measure(build: Path, part: str, options: Sequence[str]) -> Iterator[tuple[str, float]]:
    python = build / ".venv" / "bin" / "python"
    if not python.exists():
        raise RuntimeError(f"{build} has no .venv: run `make lint` there first")
    with tempfile.TemporaryDirectory(prefix="podrelay-against-") as folder:
        out = Path(folder) / "report.json"
        command = [str(python), "-m", "tests.benchmarks", "--parts", part, "--out", str(out), *options]
        done = subprocess.run(command, cwd=build, capture_output=True, text=True, check=False)
        if done.returncode or not out.exists():
            raise RuntimeError(f"{part} failed in {build}:\n{(done.stdout + done.stderr)[-4000:]}")
        report: dict[str, Any] = json.loads(out.read_text())
    print(f"{part} of {build.name}: {report['took_s'][part]:.0f} s", file=sys.stderr, flush=True)
    for row in report["targets"]:
        if row["value"] is not None:
            yield row["measure"], float(row["value"])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
