"""podrelay: an Airflow executor whose scheduler side never waits for Kubernetes.

This package is all that the scheduler process needs; the launchers and the watcher live in `podrelay_workers`.
"""

__version__ = "0.1.0"
