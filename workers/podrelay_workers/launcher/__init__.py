"""The launcher: claims jobs from Redis, creates and cleans up pods. The modules, in the order of a launch:

start          reads the options from Airflow's configuration
options        those options (plain data)
process        the process, without Airflow
launcher       the parts of one launcher, their loops and their shutdown
registration   its registration as an RQ worker
job_loop       the loop of one kind of jobs: claim, start a task for each, repeat
drain          the orders to take nothing more
job_queue      RQ's data in Redis: claim by lease, renew, finish, put back
leased_job     a claimed job, and the dispositions that end it (pure)
job_clock      the clocks that count for a job: Redis' and the scheduler's
leases         the held jobs: renewed, and their outcomes written in batches
concurrency    how many jobs at once
launch_job     one launch, from the claimed job to its outcome
token_check    whether the task's token is valid for long enough (pure)
failed_launch  launches that fail: published, unless their pod exists after all
launch_messages  a launch's report, and the order to revoke its pod (pure)
unreadable_job  a job that cannot be decrypted: its launcher lacks a key, or it is forged
pod_manifest   the pod's manifest
fast_rendering  the manifest from a template that was merged once (pure)
provider_rendering  the manifest by the provider's construct_pod, which needs Airflow
template_proof  whether both make the same of a template
pod_template   template files, read once per version
pod_policy     which manifests are allowed (pure)
pod_rules      the rules of the policy (pure)
workload_secret  the Secret that holds the workload of a pod (pure)
pod_creation   creation of the pod and its Secret, at most once
pod_ownership  whether a pod belongs to a launch
unstarted_pod  whether a pod has started, and deletion of one that has not
final_checks   what is looked up before a launch fails for good
refusals       since when a job, or a kind of clean-up, is refused
error_policy   what an error of the API server means: who waits, how long, or why it fails (pure)
shared_waits   waits that concern more than one launch
throttle       the waits that the API server asked for, shared by all launchers
wait_limit     how long and how often to try a launch
warm_pool/     pods that are started before a task needs them
redaction      tokens removed from messages (pure)
cleanup_job    one clean-up: delete, label or revoke a pod
"""
