"""Every name that podrelay gives to something outside Python and Redis: labels, annotations, pods, launch ids, RQ job ids.

Keys of Redis are in `redis_keys`.
"""

from __future__ import annotations

import re
import uuid

DEFAULT_CLUSTER = "default"

# --- labels and annotations on pods -------------------------------------------------------------------------------
# Written by the launcher at creation, after the pod_mutation_hook; read by the watcher, pod_logs and operators.
LABEL_LAUNCH_ID = "podrelay/launch-id"
LABEL_DEPLOYMENT = "podrelay/deployment"
LABEL_CLUSTER = "podrelay/cluster"
LABEL_ATTEMPT = "podrelay/attempt"
# What task instance (or callback, or connection test) the pod is for: the key of `current`.
ANNOTATION_SUBJECT = "podrelay/subject"
# Where the stock executor puts a task instance's id from Airflow 3.4 on.
ANNOTATION_TASK_INSTANCE = "task_instance_id"
LABEL_TASK_INSTANCE = "ti_id"

# The stock executor's labels that mean something to us as well (provider: pod_generator, kubernetes_executor).
LABEL_WORKER = "airflow-worker"
LABEL_DONE = "airflow_executor_done"
LABEL_REVOKED = "airflow_pod_revoked"

_POD_NAME_MAX = 63  # a pod's name is also its host name: one DNS label (RFC 1123)
_POD_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_POD_OF_OURS = re.compile(r"-([0-9a-f]{32})-(\d+)$")
_JOB_ID = re.compile(r"^([A-Za-z0-9-]+)_(\d+)$")


# Airflow's own ids are of other versions (RFC 9562 leaves this one to whoever uses it).
_OUR_VERSION = 8


def new_launch_id() -> str:
    """An id for a launch to which Airflow assigned none: one that is recognised when a row brings it back."""
    return str(uuid.UUID(int=uuid.uuid4().int & ~(0xF << 76) | _OUR_VERSION << 76))


def is_assigned(text: str | None) -> bool:
    """Did Airflow assign this id to the launch that is to be made? Where it assigns none, the row still holds what an earlier
    launch left there: an id of ours, or whatever another executor calls its own.
    """
    return is_launch_id(text) and uuid.UUID(text or "").version != _OUR_VERSION


def is_launch_id(text: str | None) -> bool:
    try:
        uuid.UUID(text or "")
    except ValueError:
        return False
    return True


def job_id(launch_id: str, attempt: int) -> str:
    """The RQ job id of one attempt of one launch. RQ allows letters, digits, `-` and `_` only."""
    return f"{launch_id}_{attempt}"


def cleanup_job_id(launch_id: str, attempt: int, action: str, unless_started: bool = False) -> str:
    """The RQ job id of a clean-up. One that was left because it had started may have to go all the same later, by another."""
    return f"{job_id(launch_id, attempt)}{'-pending' if unless_started else ''}-{action}"


def parse_job_id(job: str) -> tuple[str, int] | None:
    """Launch id and attempt of a job id, or None where the job is not one of ours."""
    match = _JOB_ID.match(job)
    return (match[1], int(match[2])) if match else None


def pod_name(prefix: str, launch_id: str, attempt: int) -> str:
    """The pod's name: a pure function of launch and attempt, so that Kubernetes refuses a second pod (invariant I1).

    `prefix` (dag and task, or what a pod_override asks for) only makes it readable.
    """
    suffix = f"-{launch_id.replace('-', '').lower()}-{attempt}"
    slug = re.sub(r"[^a-z0-9]+", "-", prefix.lower()).strip("-")[: _POD_NAME_MAX - len(suffix)].strip("-")
    return (slug or "pod") + suffix if len(suffix) + 3 <= _POD_NAME_MAX else (slug + suffix)[-_POD_NAME_MAX:].strip("-")


def launch_of_pod(name: str) -> tuple[str, int] | None:
    """Launch id and attempt of a pod of ours by its name, or by its host name; None where it is not one."""
    match = _POD_OF_OURS.search(name.split(".", 1)[0])
    if match is None:
        return None
    digits = match[1]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])), int(match[2])


def attempt_of_pod(name: str, launch_id: str) -> int | None:
    """Which attempt of this launch has a pod of exactly this name; None where it is none of the launch. Every pod of ours
    is named by `pod_name`, whatever an override or a hook asks for: a name proves whose pod it is.
    """
    launch, attempt = launch_of_pod(name) or ("", 0)
    exact = launch == launch_id and name.endswith(f"-{attempt}") and _POD_NAME.fullmatch(name)
    return attempt if exact else None


def cluster_label(cluster: str) -> str:
    """The value of LABEL_CLUSTER. A team's name may begin or end with a dash or an underscore, which no label's value may."""
    return cluster if cluster[:1].isalnum() and cluster[-1:].isalnum() else f"0.{cluster}.0"
