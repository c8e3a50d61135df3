"""Pure: how long entries stay in Redis, and how many. The ledger's TTL and the results stream's length are settings."""

from __future__ import annotations

# How long rq-dashboard shows a finished job, and a failed one. RQ keeps failures for a year by default.
RESULT_TTL_S = 600
FAILURE_TTL_S = 86_400
# At most this many finished, and failed, jobs stay per queue (about 10 MB), however many pods are created in RESULT_TTL_S.
FINISHED_MAX = 10_000
# RQ's own maintenance (`rq info` runs it) requeues a job with an expired lease while it has retries left, and fails it then.
RETRIES_LEFT = 1000
# The quarantine stream keeps about this many entries; prelude.lua has the same number.
QUARANTINE_MAX = 10_000
# A launcher's registration expires this long after its last renewal.
REGISTRATION_TTL_S = 60
# Requests for log tails: nobody waits for one longer than this.
LOG_REQUESTS_MAX = 200
LOG_REQUESTS_TTL_S = 30
# Warm pods of a cluster, ready or not; more than can be configured, as some may be on their way out. Their shapes.
WARM_PODS_MOST = 12_000
WARM_SHAPES_MOST = 64
# The launches by which the demand for warm pods is measured.
WARM_ARRIVALS_S = 300
WARM_ARRIVALS_MOST = 10_000
# A pool without a keeper: by then all of its pods have ended.
WARM_POOL_TTL_S = 86_400
