#!/usr/bin/env bash
# Software: apache-airflow-core 3.3.2, opentelemetry-sdk 1.45.2.
#
# Expected: Stats.decr() lowers a metric, with OpenTelemetry as with StatsD, and
#   [metrics] otel_prefix only changes how the names begin.
# Seen: a counter of OpenTelemetry cannot fall, so Airflow makes an up-and-down counter of
#   one metric, dag_processing.processes, which it knows by its full name with the prefix
#   "airflow". With any other prefix the name is not recognised and the metric becomes a
#   plain counter: each decrement is refused with a warning in the log, the value only
#   rises. All other metrics have no such exception, whatever the prefix: a decr() of a
#   provider's or plugin's own metric is lost.
# Why it matters: a prefix per deployment ("prod", "staging") is what the option is for, and
#   it turns the number of running parsers into the number ever started. For what can
#   fall, use gauge().
# No issue about it was found in the public tracker.
#
# Output on 2026-11-27:
#   Airflow 3.3.2, opentelemetry-sdk 1.45.2, Python 3.11
#   each metric: up by 5, down by 3
#   airflow.dag_processing.processes: 2, can only rise: False
#   airflow.my.running: 5, can only rise: True
#   prod.dag_processing.processes: 5, can only rise: True
#   prod.my.running: 5, can only rise: True
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export AIRFLOW_HOME=$work/airflow

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    apache-airflow-core==3.3.2 apache-airflow-task-sdk==1.3.2 \
    opentelemetry-sdk==1.45.2 opentelemetry-api==1.45.2 opentelemetry-exporter-otlp==1.45.2

"$work/venv/bin/python" - <<'PY' 2>"$work/err" || { cat "$work/err" >&2; exit 1; }
import logging
import sys
from importlib.metadata import version

from airflow._shared.observability.metrics.otel_logger import SafeOtelLogger
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

print(f"Airflow {version('apache-airflow-core')}, opentelemetry-sdk {version('opentelemetry-sdk')},",
      "Python %d.%d" % sys.version_info[:2])
print("each metric: up by 5, down by 3")
logging.disable(logging.CRITICAL)
values = {}
for prefix in ("airflow", "prod"):
    reader = InMemoryMetricReader()
    stats = SafeOtelLogger(MeterProvider(metric_readers=[reader]), prefix)
    for name in ("dag_processing.processes", "my.running"):
        stats.incr(name, 5)
        stats.decr(name, 3)
    for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics:
        values[metric.name] = metric.data.data_points[0].value
        print(f"{metric.name}: {values[metric.name]}, can only rise: {metric.data.is_monotonic}")
if list(values.values()) != [2, 5, 5, 5]:
    sys.exit("CHANGED: decrements now count in another way")
PY
