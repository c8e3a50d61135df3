"""The pods part of the Kubernetes API over HTTPS, with each pod a local process: the cluster of a laptop and of CI.

Start it with ``podrelay-local-cluster`` or `main.run_local_cluster`; clients reach it by its kubeconfig, as they reach any
other cluster. Its behaviour follows the Kubernetes API documentation (API concepts, Pod lifecycle). Where it deliberately
does less than a real cluster, the docstring of that module says so. Imports run down only:

main, __main__   the command line
server           puts the parts together; listens, restarts and stops
api/             the API of objects over HTTP
control/         what tests do to the cluster: faults, forced ends, audit log
http/            requests and responses, for both APIs
kubelet/         runs pods as processes or timers and reports their status
registry/        the rules by which objects are created, changed and deleted
storage/         the objects, their resource versions, their events, and the journal on disk
kubectl/         what only kubectl needs: discovery documents and tables
objects/         what an object is: metadata, defaults, validation, patches, selectors, errors
certificate      the server's certificate and its CA
kubeconfig       the kubeconfig file
options          the options of one cluster
"""
