"""What a process counts: as Prometheus reads it, and as Airflow's stats get it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from podrelay import metrics_table
from podrelay.metrics_table import TABLE
from podrelay.settings import Settings
from podrelay.teams import kube_config_of
from podrelay_workers.runtime.airflow_options import read_worker_options
from podrelay_workers.runtime.metrics import Metrics

COMMON = ("deployment", "cluster")


class Stats:
    """Airflow's stats as far as `Metrics` uses them; keeps what it was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, float, dict[str, str]]] = []

    def incr(self, name: str, count: int, *, tags: dict[str, str]) -> None:
        self.sent.append(("incr", name, count, tags))

    def timing(self, name: str, milliseconds: float, *, tags: dict[str, str]) -> None:
        self.sent.append(("timing", name, milliseconds, tags))

    def gauge(self, name: str, number: float, *, tags: dict[str, str]) -> None:
        self.sent.append(("gauge", name, number, tags))


@pytest.fixture
def stats() -> Stats:
    return Stats()


def samples(metrics: Metrics, accept: str = "") -> dict[tuple[str, ...], float]:
    """Name and label values (without deployment and cluster) to number."""
    body, _ = metrics.render(accept)
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name not in COMMON)): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name.startswith("podrelay")
    }


def test_a_counter(stats: Stats) -> None:
    metrics = Metrics("launcher", "default", stats=stats)
    metrics.count(metrics_table.POD_CREATION_STATUS, "201")
    metrics.count(metrics_table.POD_CREATION_STATUS, "201", by=2)
    assert samples(metrics)["podrelay_pod_creation_answers_total", "201"] == 3
    name = "kubernetes_executor.pod_creation_status"
    assert stats.sent == [("incr", name, 1, {"status": "201"}), ("incr", name, 2, {"status": "201"})]


def test_a_histogram_counts_each_value_in_every_bucket_that_holds_it(stats: Stats) -> None:
    metrics = Metrics("launcher", "default", stats=stats)
    for seconds in (0.005, 0.006, 99.0):
        metrics.observe(metrics_table.POD_CREATION, seconds)
    found, name = samples(metrics), "podrelay_pod_creation_seconds"
    assert found[f"{name}_bucket", "0.005"] == 1
    assert found[f"{name}_bucket", "0.01"] == 2
    assert found[f"{name}_bucket", "30.0"] == 2
    assert found[f"{name}_bucket", "+Inf"] == found[f"{name}_count",] == 3
    assert found[f"{name}_sum",] == pytest.approx(99.011)
    assert ("timing", "kubernetes_executor.pod_creation", 5.0, {}) in stats.sent


def test_a_label_in_the_name_is_no_tag(stats: Stats) -> None:
    metrics = Metrics("watcher", "default", team="red", stats=stats)
    metrics.observe(metrics_table.LIFECYCLE, 1.5, "created")
    assert stats.sent == [("timing", "podrelay.lifecycle.created", 1500.0, {"team_name": "red"})]


def test_texts_from_elsewhere_make_no_series(stats: Stats) -> None:
    metrics = Metrics("watcher", "default", stats=stats)
    metrics.gauge(metrics_table.WAITING, lambda: {("QuotaExceeded",): 1, ("<script>",): 2, ('a"\n',): 4})
    for number in range(1000):
        metrics.count(metrics_table.REFUSALS, f"kind {number}", f"reason {number}")
    found = samples(metrics)
    assert found["podrelay_refusals_total", "other", "other"] == 1000
    assert found["podrelay_waiting_launches", "QuotaExceeded"] == 1
    assert found["podrelay_waiting_launches", "other"] == 6
    assert "<script>" not in metrics.render("")[0].decode()


def test_gauges_go_to_airflows_stats_with_their_labels_in_the_name(stats: Stats) -> None:
    metrics = Metrics("watcher", "default", stats=stats)
    metrics.gauge(metrics_table.QUEUE, lambda: {("p8", "queued"): 5})
    metrics.gauge(metrics_table.UNREAD, lambda: None)
    metrics.gauge(metrics_table.READY, lambda: 1.0)
    metrics.emit_gauges()
    assert stats.sent == [("gauge", "podrelay.queue_jobs.p8.queued", 5, {})]
    assert ("podrelay_unread_results",) not in samples(metrics), "what is unknown is missing, not 0"


def test_a_prepared_counter_starts_at_zero(stats: Stats) -> None:
    metrics = Metrics("launcher", "default", stats=stats)
    metrics.prepare(metrics_table.LAUNCH_FAILURES)
    before = samples(metrics)
    assert (
        before["podrelay_launch_failures_total", "PodRefused"] == before["podrelay_launch_failures_total", "other"] == 0
    )
    metrics.count(metrics_table.LAUNCH_FAILURES, "PodRefused")
    assert samples(metrics)["podrelay_launch_failures_total", "PodRefused"] == 1


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_every_metric_in_both_formats(stats: Stats, accept: str) -> None:
    """No `_created` series: they would double the number of series, and no alert uses them."""
    metrics = Metrics("launcher", "a-deployment", team="red", stats=stats)
    for metric in TABLE:
        values = tuple(sorted(label.values)[0] for label in metric.labels)
        if metric.process == "scheduler" or metric is metrics_table.INFO:
            continue
        if metric.type == "counter":
            metrics.count(metric, *values)
        elif metric.type == "histogram":
            metrics.observe(metric, 1.0, *values)
        else:
            metrics.gauge(metric, partial(dict, {values: 1.0}))
    body, content_type = metrics.render(accept)
    text = body.decode()
    assert "_created" not in text
    assert ("openmetrics" in content_type) == bool(accept)
    assert 'podrelay_ready{deployment="a-deployment",cluster="red"} 1.0' in text.replace(
        'cluster="red",deployment="a-deployment"', 'deployment="a-deployment",cluster="red"'
    )
    assert "process_cpu_seconds_total" in text
    exported = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE podrelay")}
    expected = {
        metric.prometheus_name if not accept else metric.name for metric in TABLE if metric.process != "scheduler"
    }
    assert exported == expected


def test_the_version_is_a_metric() -> None:
    import podrelay

    assert samples(Metrics("watcher", "default"))["podrelay_build_info", "watcher", podrelay.__version__] == 1


@pytest.mark.parametrize("backend", ["statsd_on", "statsd_datadog_enabled", "otel_on"])
def test_airflows_stats_get_numbers_where_a_backend_is_on(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call to Airflow's stats takes longer than all that counting does, and imports Airflow."""
    settings = Settings("redis://nowhere", "key")
    assert not read_worker_options(settings, None, kube_config_of(None)).sends_stats
    monkeypatch.setenv(f"AIRFLOW__METRICS__{backend.upper()}", "True")
    assert read_worker_options(settings, None, kube_config_of(None)).sends_stats


def test_two_processes_of_one_test_do_not_share_a_registry() -> None:
    first: Any = Metrics("launcher", "default")
    second: Any = Metrics("launcher", "default")
    first.count(metrics_table.POD_CREATION_STATUS, "200")
    assert ("podrelay_pod_creation_answers_total", "200") not in samples(second)


@pytest.mark.parametrize(
    "accept",
    ["application/openmetrics-text; version=abc", "text/plain; version=1.0.0 a", "text/plain;version=;escaping=x"],
)
def test_an_odd_accept_header_is_no_error(accept: str) -> None:
    body, content_type = Metrics("launcher", "d").render(accept)
    assert b"podrelay_build_info" in body
    assert content_type.startswith("text/plain")
