#!/usr/bin/env bash
# Software: Airflow 3.3.2.
#
# Expected: a provider that lists a plugin under `plugins` of its get_provider_info, as
#   the schema of provider.yaml offers, adds that plugin to an Airflow in which it is installed.
# Seen: with the default `[core] lazy_discover_providers = True` no process loads it:
#   `airflow plugins` does not list it, although `airflow providers list` lists the provider.
#   With False it is there. "Lazily" means "never" for plugins: nothing asks for them later.
# Why it matters: the pages, macros or listeners of such a provider are missing without a
#   line in any log. A provider has to declare the same plugin a second time, as an
#   entry point `airflow.plugins`; the Edge provider does both.
#
# Output on 2026-11-27:
#   Airflow 3.3.2
#   by default, the provider is listed 1 time(s), its plugin 0 time(s)
#   with lazy_discover_providers = False, its plugin is listed 1 time(s)
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/provider/weather_provider"
cat >"$work/provider/pyproject.toml" <<'TOML'
[build-system]
requires = ["hatchling==1.33.0"]
build-backend = "hatchling.build"

[project]
name = "weather-provider"
version = "1.0.0"

[project.entry-points.apache_airflow_provider]
provider_info = "weather_provider:get_provider_info"
TOML
cat >"$work/provider/weather_provider/__init__.py" <<'PY'
def get_provider_info():
    return {
        "package-name": "weather-provider",
        "name": "Weather",
        "description": "Weather.",
        "plugins": [{"name": "weather_plugin", "plugin-class": "weather_provider.plugin.WeatherPlugin"}],
    }
PY
cat >"$work/provider/weather_provider/plugin.py" <<'PY'
from airflow.plugins_manager import AirflowPlugin


class WeatherPlugin(AirflowPlugin):
    name = "weather_plugin"
PY

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    apache-airflow==3.3.2 "$work/provider"
export AIRFLOW_HOME=$work/airflow AIRFLOW__CORE__LOAD_EXAMPLES=False PATH=$work/venv/bin:$PATH
unset AIRFLOW__CORE__LAZY_DISCOVER_PROVIDERS

providers() { airflow providers list --output json 2>/dev/null | grep -c '"weather-provider"' || true; }
plugins() { airflow plugins --output json 2>/dev/null | grep -c '"weather_plugin"' || true; }

echo "Airflow $(airflow version 2>/dev/null | tail -n 1)"
known=$(providers) lazy=$(plugins)
eager=$(AIRFLOW__CORE__LAZY_DISCOVER_PROVIDERS=False plugins)
echo "by default, the provider is listed $known time(s), its plugin $lazy time(s)"
echo "with lazy_discover_providers = False, its plugin is listed $eager time(s)"
[ "$known" = 1 ] && [ "$lazy" = 0 ] && [ "$eager" = 1 ] || {
    echo "CHANGED: plugins of providers are loaded in another way" >&2
    exit 1
}
