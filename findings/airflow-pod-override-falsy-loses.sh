#!/usr/bin/env bash
# Software: apache-airflow-core 3.3.2, apache-airflow-providers-cncf-kubernetes 10.25.0,
#   kubernetes 36.0.3 (Python client).
#
# Expected: what a task's pod_override sets explicitly wins over the pod template, also
#   False, 0 and an empty list: "no service account token for this task", "kill it at
#   once", "none of the tolerations".
# Seen: it wins only if it is true in Python's sense. PodGenerator.reconcile_pods asks "is
#   the task's value falsy?" and then takes the template's. True overrides False, but
#   False never overrides True, and the same goes for 0 and [].
# Why it matters: the author sees no warning; the pod starts, with the token mounted, on the
#   host's network, or with 60 s of grace. It can only be switched off for all
#   tasks in the template, or in the pod mutation hook.
# Known in part: apache/airflow issue 42040 has it for KubernetesPodOperator, closed; the
#   merge rule that the executor uses is as before.
#
# Output on 2026-11-27:
#   Airflow 3.3.2, cncf-kubernetes 10.25.0, kubernetes 36.0.3, Python 3.11
#   template on, task off: {'automountServiceAccountToken': True, 'hostNetwork': True, 'terminationGracePeriodSeconds': 60, 'tolerations': [{'key': 'gpu', 'operator': 'Exists'}]}
#   template off, task on: {'automountServiceAccountToken': True, 'hostNetwork': True, 'terminationGracePeriodSeconds': 60, 'tolerations': [{'key': 'gpu', 'operator': 'Exists'}]}
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# This release of the provider needs Python 3.11.
export AIRFLOW_HOME=$work/airflow

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    apache-airflow-core==3.3.2 apache-airflow-task-sdk==1.3.2 \
    apache-airflow-providers-cncf-kubernetes==10.25.0 kubernetes==36.0.3

"$work/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version

from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

print(f"Airflow {version('apache-airflow-core')}, cncf-kubernetes",
      f"{version('apache-airflow-providers-cncf-kubernetes')}, kubernetes {version('kubernetes')},",
      "Python %d.%d" % sys.version_info[:2])


def pod(**spec):
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name="p"),
        spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base")], **spec))


def merged(template, override):
    both = PodGenerator.reconcile_pods(pod(**template), pod(**override))
    spec = ApiClient().sanitize_for_serialization(both)["spec"]
    del spec["containers"]
    return spec


toleration = {"key": "gpu", "operator": "Exists"}
on = {
    "automount_service_account_token": True,
    "host_network": True,
    "termination_grace_period_seconds": 60,
    "tolerations": [k8s.V1Toleration(**toleration)],
}
off = {
    "automount_service_account_token": False,
    "host_network": False,
    "termination_grace_period_seconds": 0,
    "tolerations": [],
}
switched_off = merged(on, off)
switched_on = merged(off, on)
print("template on, task off:", switched_off)
print("template off, task on:", switched_on)
wish = {"automountServiceAccountToken": True, "hostNetwork": True,
        "terminationGracePeriodSeconds": 60, "tolerations": [toleration]}
if switched_off != wish or switched_on != wish:
    sys.exit("CHANGED: falsy values of a pod_override are now taken")
PY
