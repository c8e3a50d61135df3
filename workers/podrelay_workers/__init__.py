"""The worker processes beside the scheduler: launchers create and clean up pods, watchers publish what becomes of them; and
what runs in a warm pod.

Imports run down this list; launcher, watcher and warm pod do not import each other.

command            the command `podrelay`, which starts a launcher or watcher in less time than Airflow's command line
launcher, watcher, warm_pod  one process each
kube               the pods part of the Kubernetes API
runtime            start-up, shutdown, tasks and waiting times of the processes
"""
