"""The panels of the dashboard for Grafana, row by row. `dashboard` renders them."""

from __future__ import annotations

from dataclasses import dataclass

_SOME, _NONE, _MINUTES = (("red", None), ("green", 1)), (("green", None), ("red", 1)), (("green", None), ("red", 300))
# The metrics of a process itself do not say whose they are.
_WITH_ROLE = " * on (instance) group_left (role) podrelay_build_info{S}"
_MEDIAN_OF_STEPS = (
    "histogram_quantile(0.5, sum by (le, step) (rate(podrelay_lifecycle_seconds_bucket{S}[$__rate_interval])))"
)


@dataclass(frozen=True)
class Panel:
    """One panel. Each query is an expression and its legend; `S` in an expression stands for the selected labels."""

    title: str
    meaning: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    width: int = 8
    # Of a single number: colours, and from which value on. Without them the panel is a plot.
    colours: tuple[tuple[str, float | None], ...] = ()


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


def _quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (
            f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{S}}[$__rate_interval])))",
            f"p{share * 100:g}",
        )
        for share in (0.5, 0.95, 0.99)
    )


ROWS = (
    Row(
        "Now",
        (
            Panel(
                "Launchers alive",
                "Registered in the last 12 s.",
                (('max(podrelay_launchers{S,state="alive"})', ""),),
                width=4,
                colours=_SOME,
            ),
            Panel(
                "Watchers that lead",
                "One per cluster.",
                (("sum(podrelay_watcher_leading{S})", ""),),
                width=4,
                colours=_SOME,
            ),
            Panel(
                "Schedulers", "Seen in the last 30 s.", (("max(podrelay_schedulers{S})", ""),), width=4, colours=_SOME
            ),
            Panel(
                "Not ready",
                "Launchers and watchers whose /readyz says no.",
                (("count(podrelay_ready{S} == 0) or vector(0)", ""),),
                width=4,
                colours=_NONE,
            ),
            Panel(
                "Oldest queued",
                "Of all priorities.",
                (("max(podrelay_oldest_queued_seconds{S})", ""),),
                "s",
                width=4,
                colours=_MINUTES,
            ),
            Panel(
                "Quarantine",
                "Entries that could not be trusted or read.",
                (("max(podrelay_quarantine_entries{S})", ""),),
                width=4,
                colours=_NONE,
            ),
        ),
    ),
    Row(
        "Launches",
        (
            Panel(
                "Pods created",
                "Per second, and requests that failed.",
                (
                    ('sum(rate(podrelay_pod_creation_answers_total{S,status="200"}[$__rate_interval]))', "created"),
                    (
                        'sum by (status) (rate(podrelay_pod_creation_answers_total{S,status!="200"}[$__rate_interval]))',
                        "{{status}}",
                    ),
                ),
                "reqps",
            ),
            Panel(
                "Offer to pod",
                "From the hand-over by the scheduler to the pod.",
                _quantiles("podrelay_launch_wait_seconds"),
                "s",
            ),
            Panel("Creation latency", "Of the API server.", _quantiles("podrelay_pod_creation_seconds"), "s"),
            Panel(
                "Queued",
                "By priority.",
                (('sum by (priority) (podrelay_queue_jobs{S,state="queued"})', "{{priority}}"),),
            ),
            Panel(
                "Oldest queued",
                "By priority.",
                (("max by (priority) (podrelay_oldest_queued_seconds{S})", "{{priority}}"),),
                "s",
            ),
            Panel("Waiting", "By reason.", (("max by (reason) (podrelay_waiting_launches{S})", "{{reason}}"),)),
            Panel(
                "Refused requests",
                "By reason.",
                (
                    (
                        "sum by (kind, reason) (rate(podrelay_refusals_total{S}[$__rate_interval]))",
                        "{{kind}} {{reason}}",
                    ),
                ),
                "reqps",
            ),
            Panel(
                "Launches that failed without a pod",
                "By reason.",
                (("sum by (reason) (increase(podrelay_launch_failures_total{S}[$__rate_interval]))", "{{reason}}"),),
            ),
            Panel(
                "Oldest wait", "By reason.", (("max by (reason) (podrelay_oldest_wait_seconds{S})", "{{reason}}"),), "s"
            ),
        ),
    ),
    Row(
        "Warm pods",
        (
            Panel(
                "Starts",
                "Launches per second by how they got their pod: warm, or why not.",
                (("sum by (start) (rate(podrelay_starts_total{S}[$__rate_interval]))", "{{start}}"),),
                "reqps",
            ),
            Panel(
                "Idle and starting",
                "Warm pods without a task.",
                (
                    ("max by (state) (podrelay_warm_pods{S})", "{{state}}"),
                    ("max(podrelay_warm_pools_off{S})", "shapes without pods, because these failed"),
                ),
            ),
            Panel(
                "Claim to workload",
                "From the claim of a launch until its warm pod had the workload.",
                _quantiles("podrelay_warm_assignment_seconds"),
                "s",
            ),
        ),
    ),
    Row(
        "Launchers",
        (
            Panel(
                "Requests in flight and their limit",
                "By launcher.",
                (
                    ("podrelay_requests_in_flight{S}", "{{instance}}"),
                    ("podrelay_request_limit{S}", "limit {{instance}}"),
                ),
            ),
            Panel(
                "Throttled",
                "Seconds for which nothing is sent.",
                (("podrelay_throttled_seconds{S}", "{{scope}} {{instance}}"),),
                "s",
            ),
            Panel("Jobs in flight", "Held by lease.", (("podrelay_jobs_in_flight{S}", "{{kind}} {{instance}}"),)),
            Panel(
                "Deletions and labels",
                "Per second, by status.",
                (
                    (
                        "sum by (status) (rate(podrelay_pod_deletion_answers_total{S}[$__rate_interval]))",
                        "delete {{status}}",
                    ),
                    (
                        "sum by (status) (rate(podrelay_pod_patching_answers_total{S}[$__rate_interval]))",
                        "label {{status}}",
                    ),
                ),
                "reqps",
            ),
            Panel(
                "CPU",
                "Of launchers and watchers.",
                (
                    (
                        f"rate(process_cpu_seconds_total[$__rate_interval]){_WITH_ROLE}",
                        "{{role}} {{instance}}",
                    ),
                ),
            ),
            Panel(
                "Memory",
                "Resident, of launchers and watchers.",
                (
                    (
                        f"process_resident_memory_bytes{_WITH_ROLE}",
                        "{{role}} {{instance}}",
                    ),
                ),
                "bytes",
            ),
        ),
    ),
    Row(
        "Pods and reports",
        (
            Panel("Pods", "That the leading watcher knows.", (("max by (state) (podrelay_pods{S})", "{{state}}"),)),
            Panel(
                "Reports",
                "Per second, by what became of the pod.",
                (("sum by (outcome) (rate(podrelay_reports_total{S}[$__rate_interval]))", "{{outcome}}"),),
            ),
            Panel(
                "Failures",
                "By class.",
                (
                    (
                        'sum by (failure_class) (increase(podrelay_reports_total{S,outcome="failed"}[$__rate_interval]))',
                        "{{failure_class}}",
                    ),
                ),
            ),
            Panel(
                "Steps of a launch",
                "Median from the step before.",
                ((_MEDIAN_OF_STEPS, "{{step}}"),),
                "s",
            ),
            Panel(
                "Watch",
                "Ages of list, event and bookmark; lag of events.",
                (
                    ("max(podrelay_watch_list_age_seconds{S})", "list"),
                    ("max(podrelay_watch_event_age_seconds{S})", "event"),
                    ("max(podrelay_watch_bookmark_age_seconds{S})", "bookmark"),
                    ("max(podrelay_watch_lag_seconds{S})", "lag"),
                ),
                "s",
            ),
            Panel(
                "Results",
                "In the stream, unread, unprocessed, unsent.",
                (
                    ("max(podrelay_results{S})", "stream"),
                    ("max(podrelay_unread_results{S})", "unread by the slowest scheduler"),
                    ("max(podrelay_unacknowledged_launches{S})", "unprocessed"),
                    ("sum(podrelay_unsent_reports{S})", "unsent"),
                ),
            ),
        ),
    ),
    Row(
        "Redis and trust",
        (
            Panel(
                "Redis' last reply", "Age, by process.", (("podrelay_redis_reply_age_seconds{S}", "{{instance}}"),), "s"
            ),
            Panel(
                "Quarantined",
                "What, and why.",
                (
                    (
                        "sum by (what, why) (increase(podrelay_quarantined_total{S}[$__rate_interval])) > 0",
                        "{{what}} {{why}}",
                    ),
                ),
            ),
            Panel(
                "Key mismatches, suspension, refused clean-ups",
                "0 where nothing is wrong.",
                (
                    ("max(podrelay_key_mismatches{S})", "key mismatches"),
                    ("max(podrelay_suspended{S})", "suspended"),
                    ("max(podrelay_refused_cleanups{S})", "namespaces that refuse clean-ups"),
                ),
            ),
        ),
    ),
)
