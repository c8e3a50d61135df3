"""`monitoring/`: rules and dashboard are valid, use metrics that exist, and each alert has an entry in the runbook."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring import dashboard
from podrelay.metrics_table import TABLE
from tests.harness.prometheus import find_program

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "monitoring"
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
RUNBOOK = (ROOT / "docs" / "alerts.md").read_text("utf-8")

SERIES = {
    metric.prometheus_name + suffix: {label.name for label in metric.labels}
    for metric in TABLE
    if metric.process != "scheduler"
    for suffix in (("_bucket", "_sum", "_count") if metric.type == "histogram" else ("",))
}
# Label values of the table, by label.
VALUES: dict[str, set[str]] = {}
for _metric in TABLE:
    for _label in _metric.labels:
        VALUES.setdefault(_label.name, set()).update(_label.values)


def promtool(*words: object) -> str:
    done = subprocess.run(
        [find_program("promtool"), *map(str, words)], capture_output=True, text=True, cwd=FOLDER, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_accepts_the_configuration_and_the_rules() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "config", "prometheus.yaml")


def test_each_rule_fires_when_it_should() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yaml")


def test_each_alert_has_a_test() -> None:
    tests = (FOLDER / "alerts_test.yaml").read_text()
    assert [rule["alert"] for rule in RULES if f'alertname="{rule["alert"]}"' not in tests] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_names_its_entry_in_the_runbook(rule: dict[str, Any]) -> None:
    name = rule["alert"]
    assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{name.lower()}"
    assert rule["labels"]["severity"] in ("warning", "critical")
    entry = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert entry is not None
    assert re.search(r"^\*Check:\* \S.*^\*Cure:\* \S", entry[1], re.MULTILINE | re.DOTALL)


def test_the_runbook_has_no_other_entries() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == [rule["alert"] for rule in RULES]


def expressions() -> list[str]:
    return [rule["expr"] for rule in RULES] + list(dashboard.expressions())


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_uses_series_that_exist(expression: str) -> None:
    names = set(re.findall(r"\bpodrelay_\w+", expression))
    assert names - set(SERIES) == set()
    assert names or "process_" in expression
    for name, selector in re.findall(r"\b(podrelay_\w+){([^}]*)}", expression):
        for label, value in re.findall(r'(\w+)(?:=|!=|=~)"([^"]*)"', selector):
            assert label in SERIES[name] | {"deployment", "cluster"}, label
            assert value in VALUES.get(label, ()) or value == ".*", value


def test_the_dashboard_is_up_to_date() -> None:
    assert dashboard.FILE.read_text("utf-8") == dashboard.render(), "run: make metrics"


def test_prometheus_accepts_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(dashboard.expressions())]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", path)


def test_panels_do_not_overlap_and_fill_the_width() -> None:
    panels = json.loads(dashboard.render())["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert {x for x, _ in cells} == set(range(24))
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_every_metric_is_on_the_dashboard_or_in_a_rule() -> None:
    """Those of requests that few deployments send, and what others show better, are left out on purpose."""
    used = "\n".join(expressions())
    unused = {metric.name for metric in TABLE if metric.process != "scheduler" and metric.name not in used}
    assert unused == {
        "podrelay_secret_creation_answers", "podrelay_pod_deletion_seconds", "podrelay_pod_patching_seconds",
        "podrelay_launch_waits",
    }  # fmt: skip
