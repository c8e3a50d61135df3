"""podrelay: an Airflow executor whose scheduler side never waits for Kubernetes.

This package is all that the scheduler process needs; the launchers and the watcher live in `podrelay_workers`. Its modules:

executor           Airflow's calls, translated to what follows
  launches         its memory: what was asked for, until the end is known; context: what the following have in common
  attempts         what is handed over: requests of the first and of later attempts; requests makes them of workloads
  withdrawals      taking back; endings: results; reconciliation: comparing; sweep: what nobody holds any more
  outcomes         the decision about a result (pure); pace: shares of a heartbeat; task_rows: queries of the database
launch_queue       to Redis: offer, withdraw, acknowledge; result_stream, ledger, launchers: what comes back
  relay            the scheduler's way to Redis and its scripts (lua/); redis_client: connections, for every process
names, wire        every name outside Python; every message; sealing, settings, errors: also for both fair_queues
cli, commands      `airflow podrelay ...`, done by status, preflight, dashboard; hearing: probes; lifecycle: times
pod_logs           live logs for the API server; compat: releases of Airflow; get_provider_info: its provider discovery
"""

__version__ = "0.1.0"
