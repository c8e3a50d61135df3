"""The pods part of the Kubernetes API over HTTP, each pod a local process: the embedded cluster of a laptop and of CI.

Started by ``python -m podrelay_local_cluster`` or by `main.run_local_cluster`; clients reach it by its kubeconfig,
as they reach any other cluster. What it answers follows the Kubernetes API documentation (API concepts, Pod lifecycle);
where it deliberately knows less than a real cluster, the docstring of the module concerned says so.
"""
