"""What launcher and watcher processes have in common.

start     the exit codes of both workers
airflow_options  reads the options of both from Airflow's configuration
worker_options  those options (plain data)
copies    a copy of this process that answers through sockets
absent    imports without what they can do without
handover  replaces the process that read the options by one without Airflow
process   waits for Redis at start
airflow_child  calls a function that needs Airflow, in a short-lived process
interpreter  the command line of a further Python process
kubernetes_on_demand  imports the classes of the Kubernetes libraries when they are used
logs      the lines on stderr, plain or JSON, as Airflow's options say
shutdown  the shutdown event, set by signals, against which waits race
state_signals  SIGUSR1 logs the state, SIGHUP is ignored
tasks     named tasks that end together
readiness  whether this process is ready, for the probe file and /readyz
metrics   what this process counts, for Prometheus and for Airflow's stats
monitor   serves /livez, /readyz and /metrics
backoff   waiting times after failures (pure)
recent    figures of the last minute (pure)
report_publisher  publishes pod reports, and replaces recorded ends that are not genuine
key_announcer  which keys this process has, and which it lacks
"""
