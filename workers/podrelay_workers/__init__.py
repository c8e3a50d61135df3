"""The worker processes beside the scheduler: launchers create and clean up pods, watchers publish what becomes of them.

Imports run down this list; launcher and watcher do not import each other.

launcher, watcher  one process each
kube               the pods part of the Kubernetes API
runtime            start-up, shutdown, tasks and waiting times of both processes
"""
