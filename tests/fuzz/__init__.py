"""Random input from everything that podrelay must not trust: Redis, the API server, and the clients of the local cluster.

`python -m tests.fuzz` runs a campaign of any length; `test_short` runs a little of each part. Hypothesis chooses the inputs.
"""
