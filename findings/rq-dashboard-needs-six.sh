#!/usr/bin/env bash
# Software: rq-dashboard 0.9.0, arrow 1.4.0, python-dateutil 4.0.0, RQ 3.0.0.
#
# Expected: pip install rq-dashboard, then rq-dashboard --help works.
# Seen: it stops with "No module named 'six'". rq-dashboard imports six but does not
#   say so in its requirements; it came along because arrow needs python-dateutil,
#   and that needed six. python-dateutil 4 dropped six, so from that release on a
#   fresh installation of an unchanged rq-dashboard does not start. With
#   python-dateutil 3 in its place, or with six beside it, all is well.
# Why it matters: nothing about rq-dashboard changed, the resolver is content, and
#   an image built last month works. Whoever installs the dashboard has to name six.
# No issue about it was found in the public tracker.
#
# Output on 2026-11-27:
#   rq-dashboard 0.9.0, arrow 1.4.0, python-dateutil 4.0.0, RQ 3.0.0, Python 3.11
#   declared: rq, Flask, redis, arrow, redis-sentinel-url
#   pip check: No broken requirements found.
#   rq-dashboard --help: ModuleNotFoundError: No module named 'six'
#   after pip install six: works
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# python-dateutil 4 needs Python 3.11.
python3 -m venv "$work/venv"
pip=$work/venv/bin/pip
"$pip" install --quiet --disable-pip-version-check --no-compile \
    rq-dashboard==0.9.0 arrow==1.4.0 python-dateutil==4.0.0 rq==3.0.0 redis==8.1.0

"$work/venv/bin/python" - <<'PY'
import re
import sys
from importlib.metadata import requires, version

names = "rq-dashboard", "arrow", "python-dateutil"
print(", ".join(f"{name} {version(name)}" for name in names) + f", RQ {version('rq')},",
      "Python %d.%d" % sys.version_info[:2])
declared = [re.match(r"[\w.-]+", line).group() for line in requires("rq-dashboard") if "extra ==" not in line]
print("declared:", ", ".join(declared))
if "six" in declared:
    sys.exit("CHANGED: rq-dashboard now declares six")
PY
echo "pip check: $("$pip" check --disable-pip-version-check)"
if "$work/venv/bin/rq-dashboard" --help >"$work/out" 2>&1; then
    echo "CHANGED: a plain installation of rq-dashboard starts" >&2
    exit 1
fi
echo "rq-dashboard --help: $(tail -n 1 "$work/out")"
grep -q "No module named 'six'" "$work/out" || { echo "CHANGED: it fails for another reason" >&2; exit 1; }
"$pip" install --quiet --disable-pip-version-check six==1.17.0
"$work/venv/bin/rq-dashboard" --help >"$work/out" 2>&1 || { echo "CHANGED: six alone does not help" >&2; exit 1; }
echo "after pip install six: works"
