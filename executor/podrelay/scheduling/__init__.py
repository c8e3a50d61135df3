"""The parts of a heartbeat: what the scheduler's side does with Redis and Airflow's database, within a time limit.

Handing over:
  dispatch          workloads become requests, are offered to Redis and registered
  queued_check      which workloads the database shows as queued by this scheduler
  request_builder   what a launcher receives: first attempts, next attempts, requests rebuilt from the database
Following:
  results           processes pod reports: decides, acknowledges, emits events to Airflow
  second_looks      reports that are processed again later
  unseen_failures   failures that the database does not show yet, whose events are emitted again
  decisions         pure: what a pod's end means for its task
  unreadable        pure: what an end means whose report cannot be decrypted
  revocations       takes launches back, and deletes pods whose task has not begun
  reconciler        compares the registry with the ledger and the database, and repairs the differences
  key_check         announces this scheduler's keys and warns of processes with others
  orphans           finds what dead schedulers and launchers left behind
Shared:
  heartbeat         creates the parts and runs them in order
  heartbeat_budget  how much of a heartbeat each part may use
  launch_registry   the memory of launches, each a state machine
  airflow_db        queries of Airflow's database
  task_events       podrelay's rows in the event logs of tasks
  tally             one log line per heartbeat for what happens to many tasks
  context           what all parts share
  port              what they need of the executor, which none of them imports
"""
