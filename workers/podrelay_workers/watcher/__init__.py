"""The watcher: follows the pods of one cluster and publishes what becomes of them. One leads, the others stand by.

In the order of the data flow:

start: reads the options from Airflow's configuration.
options: those options (plain data).
process: the process, without Airflow.
watcher: one watcher, which stands by or leads.
leader_election: the lease in Redis by which one watcher leads, with its fence.
leader: one term: connects all that follows.
reflector: an endless stream of pods from the API server.
pod_view: reads a pod's JSON into a frozen view.
pod_state: what a pod's state means for its launch: a report, a wait, or nothing.
pod_end: how a pod ended, and why.
pod_reasons: Kubernetes' reasons, and what each means.
ledger_fields: what the ledger keeps of a pod.
pod_table: what is known of each live pod, so that each state is published once.
pod_summary: the pods of that table, counted.
log_lines: a line of a pod's log, as text for people.
pod_lookups: single pods, their events and their logs.
outbox: publishes to ledger and stream, across outages of Redis.
rollup_writer: sums up what happened, for the page in Airflow's UI.
report_metrics: counts published reports, and times the steps of launches.
overview_metrics: the figures of the whole deployment, read from Redis.
report_log: the log lines about reports.
quarantine_metric: counts what any process quarantined.
"""
