"""The metrics of one worker process: counted here once, for Prometheus and for Airflow's stats. Used by both workers.

`podrelay.metrics_table` says which there are. Counting costs microseconds, because a launcher counts several times per pod:
numbers are plain, and become metric families only when somebody asks for them.
"""

from __future__ import annotations

import asyncio
import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import podrelay
from podrelay.metrics_table import INFO, OTHER, Metric
from podrelay.teams import cluster_of, metric_tags

# How often gauges go to Airflow's stats.
EMIT_S = 10.0

Values = tuple[str, ...]
Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
# A number; one for each combination of label values; None or nothing where there is none at present.
Reading = float | Mapping[Values, float] | None


@dataclass(slots=True)
class _Child:
    """One series: a counter's number, or a histogram's observations per bucket (the last has no bound) and their sum in
    seconds. `name` and `tags` are those in Airflow's stats.
    """

    metric: Metric
    values: Values
    name: str
    tags: dict[str, str]
    number: float = 0.0
    buckets: list[int] = field(default_factory=list)


class Metrics(Collector):
    """The numbers of one process. Not for several threads: the event loop alone counts and reads."""

    def __init__(self, role: str, deployment: str, team: str | None = None, stats: Any = None) -> None:
        """:param stats: Airflow's, which also get the numbers; None where `[metrics]` has nowhere to send them."""
        self._role = role
        self._constant = {"deployment": deployment, "cluster": cluster_of(team)}
        self._tags = metric_tags(team)
        self._stats = stats
        self._children: dict[tuple[str, Values], _Child] = {}
        self._gauges: list[tuple[Metric, Callable[[], Reading]]] = []
        self._registry = CollectorRegistry()
        for register in (ProcessCollector, PlatformCollector, GCCollector):
            register(registry=self._registry)
        self._registry.register(self)

    # --- counting -----------------------------------------------------------------------------------------------------
    def prepare(self, *metrics: Metric) -> None:
        """Export these counters from the start, with zero for all label values: Prometheus sees no increase in a series that
        appears with its first event.
        """
        for metric in metrics:
            for values in itertools.product(*(sorted(label.values | {OTHER}) for label in metric.labels)):
                self._child(metric, values)

    def count(self, metric: Metric, *values: str, by: int = 1) -> None:
        """Count an event. A label value that is not in the table counts as `OTHER`."""
        child = self._children.get((metric.name, values)) or self._child(metric, values)
        child.number += by
        if self._stats is not None:
            self._stats.incr(child.name, by, tags=child.tags)

    def observe(self, metric: Metric, seconds: float, *values: str) -> None:
        """Count an observation of a histogram."""
        child = self._children.get((metric.name, values)) or self._child(metric, values)
        child.buckets[bisect_left(metric.bounds_s, seconds)] += 1
        child.number += seconds
        if self._stats is not None:
            self._stats.timing(child.name, seconds * 1000.0, tags=child.tags)

    def gauge(self, metric: Metric, read: Callable[[], Reading]) -> None:
        """Export what `read` returns whenever somebody asks."""
        self._gauges.append((metric, read))

    def _child(self, metric: Metric, values: Values) -> _Child:
        """The series for these values as the table knows them."""
        known = _in_table(metric, values)
        child = self._children.get((metric.name, known))
        if child is None:
            name, tags = _stats_of(metric, known, self._tags)
            child = _Child(metric, known, name, tags, buckets=[0] * (len(metric.bounds_s) + 1))
            self._children[metric.name, known] = child
        return child

    # --- Prometheus ---------------------------------------------------------------------------------------------------
    def render(self, accept: str) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format or OpenMetrics, as the header asks, and the content type."""
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:  # prometheus_client 0.2x compares the version in the header without looking whether it is one
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Family]:
        """Nothing: the registry would otherwise collect once to learn the names."""
        return ()

    def collect(self) -> Iterable[Family]:
        yield self._family(INFO, {(podrelay.__version__, self._role): 1.0}, ("version", "role"))
        by_name = itertools.groupby(sorted(self._children.values(), key=_order), lambda child: child.metric)
        for metric, children in by_name:
            if metric.type == "histogram":
                yield self._histograms(metric, children)
            else:
                yield self._family(metric, {child.values: child.number for child in children})
        for metric, read in self._gauges:
            if numbers := _numbers(metric, read()):
                yield self._family(metric, numbers)

    def _family(self, metric: Metric, numbers: Mapping[Values, float], more: Values = ()) -> Family:
        make = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
        family = make(metric.name, _help(metric), labels=self._label_names(metric, more))
        for values, number in numbers.items():
            family.add_metric([*self._constant.values(), *values], number)
        return family

    def _histograms(self, metric: Metric, children: Iterable[_Child]) -> HistogramMetricFamily:
        family = HistogramMetricFamily(metric.name, _help(metric), labels=self._label_names(metric))
        bounds = [*map(str, metric.bounds_s), "+Inf"]
        for child in children:
            totals = zip(bounds, itertools.accumulate(child.buckets), strict=True)
            family.add_metric([*self._constant.values(), *child.values], list(totals), child.number)
        return family

    def _label_names(self, metric: Metric, more: Values = ()) -> list[str]:
        return [*self._constant, *(label.name for label in metric.labels), *more]

    # --- Airflow's stats ----------------------------------------------------------------------------------------------
    def emit_gauges(self) -> None:
        """Send the gauges that have a name there to Airflow's stats."""
        for metric, read in self._gauges:
            for values, number in _numbers(metric, read()).items() if metric.stats else ():
                name, tags = _stats_of(metric, values, self._tags)
                self._stats.gauge(name, number, tags=tags)

    async def emit_forever(self) -> None:
        """Send them every few seconds, if Airflow has anywhere to send them."""
        while self._stats is not None:
            self.emit_gauges()
            await asyncio.sleep(EMIT_S)


def _numbers(metric: Metric, reading: Reading) -> dict[Values, float]:
    """A reading by label values of the table; what is not in the table is added up as `OTHER`."""
    if reading is None:
        return {}
    if not isinstance(reading, Mapping):
        return {(): reading}
    numbers: dict[Values, float] = {}
    for values, number in reading.items():
        known = _in_table(metric, values)
        numbers[known] = numbers.get(known, 0.0) + number
    return numbers


def _order(child: _Child) -> tuple[str, Values]:
    return child.metric.name, child.values


def _in_table(metric: Metric, values: Values) -> Values:
    return tuple(label.known(value) for label, value in zip(metric.labels, values, strict=True))


def _stats_of(metric: Metric, values: Values, tags: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Name and tags in Airflow's stats."""
    named = {label.name: value for label, value in zip(metric.labels, values, strict=True)}
    name = metric.stats.format_map(named)
    return name, {label: value for label, value in named.items() if f"{{{label}}}" not in metric.stats} | dict(tags)


def _help(metric: Metric) -> str:
    return metric.meaning.replace("`", "")
