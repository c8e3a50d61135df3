"""The one node: runs pods and reports their status.

node             the pods of the node
pod_run          one pod, from scheduling to its last report
container_run    one container: image, environment, restarts
runtime          the interface of a container runtime
processes        the runtime that starts local processes
simulation       the runtime whose containers are timers
reaper           kills the processes that a killed server leaves behind
container_log    the log files of containers
volumes          Secrets and ConfigMaps as files
environment      the environment and command line of a container
pod_status       computes a pod's status from its containers
node_object      the Node object
"""
