#!/usr/bin/env bash
# Software: apache-airflow-core 3.3.2, apache-airflow-providers-cncf-kubernetes 10.25.0,
#   rich-argparse 1.8.0, rich 15.0.0.
#
# Expected: help="Default value is `[kubernetes] namespace` in configuration." prints
#   just that; argparse takes help text as it is, but for %.
# Seen: it prints "Default value is ` namespace` in configuration." Airflow formats its help
#   with rich-argparse, which reads help text as rich's markup, and in markup a word in
#   square brackets is a style; one that is not known vanishes. The way in which
#   everybody writes a setting of Airflow, [section] option, loses its section.
#   Brackets that cannot be a style ("[1]", "[a, b]") stay, so it is not seen at once.
# Why it matters: a provider's CLI shows people the wrong thing and no test of the parser
#   sees it. Escape the bracket with a backslash, or write the option another way.
# Known in part: rich-argparse's issue 151 thinks of switching markup off by default;
#   none was found about what Airflow's help loses.
#
# Output on 2026-11-27:
#   Airflow 3.3.2, cncf-kubernetes 10.25.0, rich-argparse 1.8.0, rich 15.0.0, Python 3.11
#   written: Kubernetes Namespace. Default value is `[kubernetes] namespace` in configuration.
#   printed: Kubernetes Namespace. Default value is ` namespace` in configuration.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# This release of the provider needs Python 3.11.
export AIRFLOW_HOME=$work/airflow COLUMNS=200

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    apache-airflow-core==3.3.2 apache-airflow-task-sdk==1.3.2 \
    apache-airflow-providers-cncf-kubernetes==10.25.0 rich-argparse==1.8.0 rich==15.0.0

"$work/venv/bin/python" - <<'PY' 2>"$work/err" || { cat "$work/err" >&2; exit 1; }
import sys
from importlib.metadata import version

from airflow.providers.cncf.kubernetes.cli.definition import ARG_NAMESPACE

print(f"Airflow {version('apache-airflow-core')}, cncf-kubernetes",
      f"{version('apache-airflow-providers-cncf-kubernetes')}, rich-argparse {version('rich-argparse')},",
      f"rich {version('rich')}, Python %d.%d" % sys.version_info[:2])
print("written:", ARG_NAMESPACE.kwargs["help"])
PY
"$work/venv/bin/airflow" kubernetes cleanup-pods --help >"$work/help" 2>"$work/err" || { cat "$work/err" >&2; exit 1; }
printed=$(grep -o 'Kubernetes Namespace.*' "$work/help")
echo "printed: $printed"
case $printed in
*'` namespace`'*) ;;
*) echo "CHANGED: the help text keeps its brackets" >&2; exit 1 ;;
esac
