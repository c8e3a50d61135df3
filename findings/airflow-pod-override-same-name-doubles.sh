#!/usr/bin/env bash
# Software: apache-airflow-core 3.3.2, apache-airflow-providers-cncf-kubernetes 10.25.0,
#   kubernetes 36.0.3 (Python client).
#
# Expected: a pod_override that brings a volume named "dags" replaces the template's volume
#   "dags", as kubectl apply and a strategic merge would; one that sets a memory limit
#   leaves the template's CPU request alone.
# Seen: the other way round in both. Lists of named things (volumes, mounts, environment)
#   are laid end to end: two volumes "dags" and two mounts at one path, where Kubernetes
#   allows each once, so what comes out is not a valid pod. Dictionaries that look as
#   if they merged (resources, nodeSelector) are replaced whole: the CPU request and
#   the second node label are gone. Labels do merge.
# Why it matters: three rules for one override, and none is that of kubectl. A task that
#   wants another volume in the template's place cannot have it, and learns so only
#   when the pod is created; a task that only sets its memory loses its CPU request.
# No issue about these rules as a whole was found in the public tracker.
#
# Output on 2026-11-27:
#   Airflow 3.3.2, cncf-kubernetes 10.25.0, kubernetes 36.0.3, Python 3.11
#   volumes: [{"emptyDir": {}, "name": "dags"}, {"configMap": {"name": "mine"}, "name": "dags"}]
#   mounts: [{"mountPath": "/dags", "name": "dags"}, {"mountPath": "/dags", "name": "dags"}]
#   env: [{"name": "MODE", "value": "template"}, {"name": "MODE", "value": "task"}]
#   resources: {"limits": {"memory": "2Gi"}}
#   nodeSelector: {"disk": "hdd"}
#   labels: {"team": "b", "tier": "x"}
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
import json
import sys
from importlib.metadata import version

from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s

print(f"Airflow {version('apache-airflow-core')}, cncf-kubernetes",
      f"{version('apache-airflow-providers-cncf-kubernetes')}, kubernetes {version('kubernetes')},",
      "Python %d.%d" % sys.version_info[:2])

template = k8s.V1Pod(
    metadata=k8s.V1ObjectMeta(name="p", labels={"team": "a", "tier": "x"}),
    spec=k8s.V1PodSpec(
        node_selector={"disk": "ssd", "zone": "1"},
        volumes=[k8s.V1Volume(name="dags", empty_dir={})],
        containers=[k8s.V1Container(
            name="base",
            env=[k8s.V1EnvVar(name="MODE", value="template")],
            volume_mounts=[k8s.V1VolumeMount(name="dags", mount_path="/dags")],
            resources=k8s.V1ResourceRequirements(requests={"cpu": "1"}))]))
override = k8s.V1Pod(
    metadata=k8s.V1ObjectMeta(labels={"team": "b"}),
    spec=k8s.V1PodSpec(
        node_selector={"disk": "hdd"},
        volumes=[k8s.V1Volume(name="dags", config_map={"name": "mine"})],
        containers=[k8s.V1Container(
            name="base",
            env=[k8s.V1EnvVar(name="MODE", value="task")],
            volume_mounts=[k8s.V1VolumeMount(name="dags", mount_path="/dags")],
            resources=k8s.V1ResourceRequirements(limits={"memory": "2Gi"}))]))
both = ApiClient().sanitize_for_serialization(PodGenerator.reconcile_pods(template, override))
spec, base = both["spec"], both["spec"]["containers"][0]
for name, value in (
    ("volumes", spec["volumes"]), ("mounts", base["volumeMounts"]), ("env", base["env"]),
    ("resources", base["resources"]), ("nodeSelector", spec["nodeSelector"]), ("labels", both["metadata"]["labels"]),
):
    print(f"{name}: {json.dumps(value, sort_keys=True)}")
if [len(spec["volumes"]), len(base["volumeMounts"]), len(base["env"])] != [2, 2, 2]:
    sys.exit("CHANGED: things of the same name are no longer doubled")
if base["resources"] != {"limits": {"memory": "2Gi"}} or spec["nodeSelector"] != {"disk": "hdd"}:
    sys.exit("CHANGED: resources and nodeSelector are no longer replaced whole")
if both["metadata"]["labels"] != {"team": "b", "tier": "x"}:
    sys.exit("CHANGED: labels no longer merge")
PY
