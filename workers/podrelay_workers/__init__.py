"""The processes beside the scheduler: launchers, watchers, and the local cluster of a laptop. The modules:

launcher           a process; lane: the loop of one kind of jobs
  intake, holdings claim by lease and give back; presence: its registration with RQ
  launching        one launch; manifest: its pod; creation: how many at once, what an answer means; own_pod: is it there?
  cleanup          one clean-up; pauses: waits that the API server asked for; redaction: tokens out of messages
watcher            a process; leadership: which one leads; leading: what it does in its term
  pod_watch        the endless stream of pods; verdict: what one means (pure); pod_table: what of it is news (pure)
  publisher        news into ledger and stream; scripts: our Lua from asyncio (lua/)
pods_api           requests to Kubernetes; api_access, api_errors, brief, last_look: how, answered what, decoded, still wanted
backoff, stopping  waiting times; the stop event
local_cluster      the embedded cluster
"""
