"""podrelay: an Airflow executor whose scheduler side never waits for Kubernetes.

This package is all that the scheduler needs; launchers and watcher are in `podrelay_workers`. docs/architecture.md explains
how they work together.

executor           Airflow's calls, translated for the parts in scheduling
scheduling         the parts of a heartbeat: hand over, process results, reconcile
store              Redis: connection, scripts, queues, ledger, result stream, liveness
protocol           what travels through Redis: messages, encryption, keys, identifiers, Lua scripts
cli                `airflow podrelay ...`
ui                 podrelay's pages in Airflow's user interface
pod_labels         labels of the stock executor, valid for every id
airflow_plugin     what podrelay adds to the API server
task_log           why a task waits or has failed, at the end of its log in the user interface
pod_logs           logs of running pods, for the API server
settings           options of [podrelay]
monitoring_address  monitoring_bind, parsed
metrics_table      every metric: names, labels, meaning
redis_address      redis_url and redis_sentinels, parsed
pod_command        the command line of a pod, with the workload in an argument or in a file
teams              what differs between teams: options, cluster, namespaces, metric tags
impersonation      whom a kubeconfig impersonates, as headers of a request
event_log          rows in a task's event log, each with its launch and pod
health             the files that readiness probes read
compat             differences between Airflow releases
errors             every exception that podrelay raises on purpose
get_provider_info  how Airflow finds the package
"""

__version__ = "0.1.0"
