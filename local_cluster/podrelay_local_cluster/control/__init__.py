"""What tests do to the cluster, beside the Kubernetes API.

control_api      the paths below ``/local-cluster/``
faults           the faults that are switched on, and what they do to each request and stream
fault_rules      one fault, and the fault configuration that a test sends
forced_end       the status of a pod that a test ends
audit            the log of API requests
"""
