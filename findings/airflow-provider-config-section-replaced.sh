#!/usr/bin/env bash
# Software: apache-airflow-core 3.3.2, apache-airflow-providers-cncf-kubernetes 10.25.0.
#
# Expected: a package that adds an option of its own to an existing section of the
#   configuration adds it; the other options of the section keep their defaults.
# Seen: the section belongs to the last one who names it. Airflow joins the sections of all
#   provider packages with dict.update, in the order of their names, so a package named
#   later than "apache-airflow-providers-..." that declares one option in
#   [kubernetes_executor] takes the defaults of all others away. Some come back from an
#   old list inside Airflow, the newer ones are gone: the executor then has an empty list of
#   the reasons for which a pod can never start.
# Why it matters: the two packages need not know of each other, installing the second is
#   enough, and there is no warning. Declare a section of your own.
# No issue about it was found in the public tracker.
#
# Output on 2026-11-27:
#   Airflow 3.3.2, cncf-kubernetes 10.25.0, Python 3.11
#   without the package:
#     team_label = (no default)
#     namespace = default
#     pod_launch_failure_retries = 1
#     worker_pod_pending_fatal_container_state_reasons = CreateContainerConfigError,ErrImagePull,CreateContainerError,ImageInspectError,InvalidImageName
#     the executor gives up on: ['CreateContainerConfigError', 'ErrImagePull', 'CreateContainerError', 'ImageInspectError', 'InvalidImageName']
#   with it:
#     team_label = none
#     namespace = default
#     pod_launch_failure_retries = (no default)
#     worker_pod_pending_fatal_container_state_reasons = (no default)
#     the executor gives up on: []
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# This release of the provider needs Python 3.11.
export AIRFLOW_HOME=$work/airflow

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    apache-airflow-core==3.3.2 apache-airflow-task-sdk==1.3.2 \
    apache-airflow-providers-cncf-kubernetes==10.25.0 kubernetes==36.0.3

# A package of one module with one option, laid down as pip would lay it.
package=$work/package
mkdir -p "$package/team_pods-1.0.dist-info"
printf 'Metadata-Version: 2.1\nName: team-pods\nVersion: 1.0\n' >"$package/team_pods-1.0.dist-info/METADATA"
printf '[apache_airflow_provider]\nprovider_info=team_pods:info\n' >"$package/team_pods-1.0.dist-info/entry_points.txt"
cat >"$package/team_pods.py" <<'PY'
def info():
    option = {"description": "Name of the team.", "version_added": "1.0", "type": "string",
              "example": None, "default": "none"}
    return {"package-name": "team-pods", "name": "Team pods", "description": "Names a team.",
            "config": {"kubernetes_executor": {"description": None, "options": {"team_label": option}}}}
PY
cat >"$work/look.py" <<'PY'
from airflow.configuration import conf
from airflow.providers.cncf.kubernetes.kube_config import KubeConfig

for option in ("team_label", "namespace", "pod_launch_failure_retries", "worker_pod_pending_fatal_container_state_reasons"):
    print(f"  {option} = {conf.get('kubernetes_executor', option, fallback='(no default)')}")
print("  the executor gives up on:", KubeConfig().worker_pod_pending_fatal_container_state_reasons)
PY

look() { "$work/venv/bin/python" "$work/look.py" 2>"$work/err" || { cat "$work/err" >&2; exit 1; }; }
"$work/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version

print(f"Airflow {version('apache-airflow-core')}, cncf-kubernetes",
      f"{version('apache-airflow-providers-cncf-kubernetes')}, Python %d.%d" % sys.version_info[:2])
PY
echo "without the package:"; look | tee "$work/before"
echo "with it:"; PYTHONPATH=$package look | tee "$work/after"
grep -q 'pod_launch_failure_retries = 1' "$work/before" && grep -q 'team_label = none' "$work/after" ||
    { echo "CHANGED: the defaults are not what they were" >&2; exit 1; }
grep -q 'pod_launch_failure_retries = (no default)' "$work/after" && grep -q 'gives up on: \[\]' "$work/after" ||
    { echo "CHANGED: the options of the section keep their defaults now" >&2; exit 1; }
