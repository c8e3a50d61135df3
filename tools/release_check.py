"""`make release-check`: is this commit, with the distributions in `dist/`, what its tag promises?

Prints one line per problem, and exits with 1 if there is any. It uploads nothing and reaches no network.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).resolve().parents[1]
# Every file that repeats the version, and how.
MENTIONS = {
    "pyproject.toml": r'^version = "([^"]+)"$',
    "executor/podrelay/__init__.py": r'^__version__ = "([^"]+)"$',
    "docker/kubernetes/base/kustomization.yaml": r"^ +newTag: (\S+)$",
    "docker/kubernetes/base/pod_template.yaml": r"^ +image: podrelay:(\S+)$",
    "docker/helm/values.yaml": r"^ +tag: (\S+)$",
    "docker/helm/Dockerfile": r"^# .*--tag podrelay:(\S+) \.$",
}
_HEADING = re.compile(r"^## \[([^\]]+)\](?: - (\S+))?$", re.MULTILINE)


@dataclass(frozen=True)
class Release:
    """What is known of a release. `mentions`: file to the version it names, None if it names none."""

    mentions: Mapping[str, str | None]
    changelog: str
    upgrade_page: str
    tags: tuple[str, ...]
    changed: tuple[str, ...]
    distributions: tuple[str, ...]
    metadata_version: str | None

    @property
    def version(self) -> str:
        return self.mentions["pyproject.toml"] or ""


def problems(release: Release, today: datetime.date) -> Iterator[str]:
    """Pure: what keeps this from being released."""
    version = release.version
    for file, found in release.mentions.items():
        if found != version:
            yield f"{file} says version {found}, and pyproject.toml {version}"
    yield from _changelog_problems(release.changelog, version, today)
    if f"\n### {version}\n" not in release.upgrade_page:
        yield f"docs/upgrade.md has no notes for {version}: add a heading '### {version}', if only to say that there are none"
    if f"v{version}" not in release.tags:
        yield f"this commit has no tag v{version} (it has: {', '.join(release.tags) or 'none'})"
    if release.changed:
        yield f"files differ from the commit: {', '.join(release.changed[:5])}"
    expected = (f"podrelay-{version}-py3-none-any.whl", f"podrelay-{version}.tar.gz")
    if sorted(release.distributions) != sorted(expected):
        yield f"dist/ holds {', '.join(release.distributions) or 'nothing'} instead of {' and '.join(expected)}: make dist"
    elif release.metadata_version != version:
        yield f"the wheel says version {release.metadata_version}: make dist"


def _changelog_problems(changelog: str, version: str, today: datetime.date) -> Iterator[str]:
    headings = _HEADING.findall(changelog)
    if not headings or headings[0][0] != version:
        first = headings[0][0] if headings else "none"
        yield f"the first heading of CHANGELOG.md is '{first}': it must be '## [{version}] - DATE'"
        return
    try:
        late = datetime.date.fromisoformat(headings[0][1]) > today
    except ValueError:
        yield f"CHANGELOG.md gives {version} no date: '## [{version}] - YYYY-MM-DD'"
        return
    if late:
        yield f"CHANGELOG.md dates {version} in the future"


def read_release(root: Path) -> Release:
    """:raises OSError: a file is missing."""
    wheels = sorted((root / "dist").glob("*.whl"))
    return Release(
        mentions={name: _mention(root / name, pattern) for name, pattern in MENTIONS.items()},
        changelog=(root / "CHANGELOG.md").read_text("utf-8"),
        upgrade_page=(root / "docs" / "upgrade.md").read_text("utf-8"),
        tags=tuple(_git(root, "tag", "--points-at", "HEAD")),
        changed=tuple(_git(root, "status", "--porcelain")),
        distributions=tuple(path.name for path in sorted((root / "dist").glob("*"))),
        metadata_version=str(_metadata(wheels[0]).version) if wheels else None,
    )


def _mention(path: Path, pattern: str) -> str | None:
    found = re.search(pattern, path.read_text("utf-8"), re.MULTILINE)
    return found[1] if found else None


def _git(root: Path, *words: str) -> list[str]:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
    return [line.strip() for line in done.stdout.splitlines()]


def _metadata(wheel: Path) -> Metadata:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Metadata.from_email(archive.read(name), validate=True)


def main(root: Path = ROOT) -> int:
    release = read_release(root)
    found = list(problems(release, datetime.date.today()))
    for problem in found:
        print(f"FAIL {problem}")
    if not found:
        for name in release.distributions:
            print(f"{hashlib.sha256((root / 'dist' / name).read_bytes()).hexdigest()}  {name}")
        print(f"podrelay {release.version} is ready to be published")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else ROOT))
