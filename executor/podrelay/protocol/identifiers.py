"""Names that podrelay gives to things: labels, annotations, pods, launch ids, RQ job ids. Pure.

Redis keys are in `redis_keys`.
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
# The task instance, callback or connection test that the pod runs: its subject, the key of `current`.
ANNOTATION_SUBJECT = "podrelay/subject"
# Warm pods. The id of a warm pod, for its whole life; and, until a launch gets the pod, its shape.
LABEL_WARM = "podrelay/warm-pod"
LABEL_IDLE = "podrelay/idle"
# The Secret that the pod's workload is mounted from. Only with `[podrelay] workload_in_secret`.
ANNOTATION_WORKLOAD_SECRET = "podrelay/workload-secret"
# Carry a task instance's id in the stock executor from Airflow 3.4 on.
ANNOTATION_TASK_INSTANCE = "task_instance_id"
LABEL_TASK_INSTANCE = "ti_id"

# Labels of the stock executor that podrelay uses too (provider: pod_generator, kubernetes_executor).
LABEL_WORKER = "airflow-worker"
LABEL_DONE = "airflow_executor_done"
LABEL_REVOKED = "airflow_pod_revoked"

_POD_NAME_MAX = 63  # a pod's name is also its host name: one DNS label (RFC 1123)
_POD_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
# An attempt has at most nine digits, here and in prelude.lua: such texts come from Redis and from pods.
_POD_OF_OURS = re.compile(r"-([0-9a-f]{32})-([0-9]{1,9})\Z")
_WARM_POD = re.compile(r"[a-z0-9][a-z0-9-]{0,62}(?<=-warm-[0-9a-f]{32})")
_LAUNCH_IN_HOST = re.compile(r"([0-9a-f]{32})-([0-9]{1,9})")
_JOB_ID = re.compile(r"([A-Za-z0-9-]{1,63})_([0-9]{1,9})")


# RFC 9562 reserves this UUID version, the digit in the group, for custom formats; Airflow's ids have other versions.
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-([0-9a-f])[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_OUR_VERSION = "8"


def new_launch_id() -> str:
    """An id for a launch to which Airflow assigned none; `is_assigned` distinguishes it from Airflow's ids."""
    text = str(uuid.uuid4())
    return f"{text[:14]}{_OUR_VERSION}{text[15:]}"


def is_assigned(text: str | None) -> bool:
    """Whether Airflow assigned this id. Otherwise the row still contains the value of an earlier launch: an id of ours, or
    another executor's.
    """
    found = _UUID.fullmatch(text or "")
    return found is not None and found[1] != _OUR_VERSION


def is_launch_id(text: str | None) -> bool:
    return _UUID.fullmatch(text or "") is not None


def job_id(launch_id: str, attempt: int) -> str:
    """The RQ job id of one attempt of a launch. RQ allows letters, digits, `-` and `_` only."""
    return f"{launch_id}_{attempt}"


def cleanup_job_id(launch_id: str, attempt: int, action: str, unless_started: bool = False) -> str:
    """The RQ job id of a clean-up. A pod that an `unless_started` job left running may need another one later."""
    return f"{job_id(launch_id, attempt)}{'-pending' if unless_started else ''}-{action}"


def parse_job_id(job: str) -> tuple[str, int] | None:
    """Launch id and attempt in the job id of a launch; None for any other id."""
    match = _JOB_ID.fullmatch(job)
    return (match[1], int(match[2])) if match else None


def launch_of_job(job: str) -> str:
    """The launch id in the job id of a launch or of a clean-up; empty for any other id."""
    match = _JOB_ID.match(job)
    return match[1] if match else ""


def attempt_of_job(job: str) -> int | None:
    """The attempt in the job id of a launch or of a clean-up; None for any other id."""
    match = _JOB_ID.match(job)
    return int(match[2]) if match else None


def launch_named(name: str) -> tuple[str, int | None]:
    """Launch id, and attempt if it says one, in a launch id, the RQ job id of a launch or a clean-up, or a pod name, which a
    namespace may precede.
    """
    last = name.strip().rpartition("/")[2].removeprefix("rq:job:")
    job = _JOB_ID.match(last)
    return (job[1], int(job[2])) if job else launch_of_pod(last) or (last, None)


def pod_name(prefix: str, launch_id: str, attempt: int) -> str:
    """The name of an attempt's pod. Its suffix depends on nothing else, so Kubernetes refuses a second pod (invariant I1,
    docs/architecture.md).

    `prefix` (DAG and task, or the name in a pod_override) makes it readable.
    """
    suffix = pod_suffix(launch_id, attempt)
    slug = _slug(prefix, suffix)
    return (slug or "pod") + suffix if len(suffix) + 3 <= _POD_NAME_MAX else (slug + suffix)[-_POD_NAME_MAX:].strip("-")


def _slug(prefix: str, suffix: str) -> str:
    """As much of a prefix, as part of a DNS label, as has room before this suffix."""
    return re.sub(r"[^a-z0-9]+", "-", prefix.lower()).strip("-")[: _POD_NAME_MAX - len(suffix)].strip("-")


def pod_suffix(launch_id: str, attempt: int) -> str:
    """How the name of an attempt's pod ends, and that of no other pod."""
    return f"-{launch_id.replace('-', '').lower()}-{attempt}"


def launch_of_pod(name: str) -> tuple[str, int] | None:
    """Launch id and attempt in a pod name or host name; None for a pod of another origin."""
    match = _POD_OF_OURS.search(name.split(".", 1)[0])
    if match is None:
        return None
    return _launch_of(match)


def _launch_of(match: re.Match[str]) -> tuple[str, int]:
    digits = match[1]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])), int(match[2])


def attempt_of_pod(name: str, launch_id: str) -> int | None:
    """The attempt of this launch whose pod has exactly this name; None if there is none. `pod_name` names every pod of ours,
    despite overrides and hooks: the name proves which launch a pod belongs to.
    """
    launch, attempt = launch_of_pod(name) or ("", 0)
    exact = launch == launch_id and name.endswith(f"-{attempt}") and _POD_NAME.fullmatch(name)
    return attempt if exact else None


def new_warm_id() -> str:
    """An id for a warm pod: 32 hex digits. It is in the pod's name and labels, so it is no secret."""
    return uuid.uuid4().hex


def warm_pod_name(prefix: str, warm_id: str) -> str:
    """The name of a warm pod, whichever launch it runs later. No pod of an attempt (`pod_name`) has such a name."""
    suffix = f"-warm-{warm_id}"
    return (_slug(prefix, suffix) or "pod") + suffix


def warm_id_of_pod(name: str) -> str | None:
    """The warm id in a pod's name; None for any other pod."""
    return name[-32:] if _WARM_POD.fullmatch(name) else None


def warm_host(own_hostname: str, launch_id: str, attempt: int) -> str:
    """What a warm pod reports as its host name: its own, and behind it, as one more label of a domain name, the launch that
    it runs, which `launch_of_host` reads from the task's row.
    """
    return f"{own_hostname}.{pod_suffix(launch_id, attempt)[1:]}"


def launch_of_host(hostname: str) -> tuple[str, int] | None:
    """Launch id and attempt in the host name of a task's row: of a pod that is named after them, or of a warm pod; None for
    any other host.
    """
    _, dot, last = hostname.rpartition(".")
    match = _LAUNCH_IN_HOST.fullmatch(last) if dot else None
    return launch_of_pod(hostname) or (_launch_of(match) if match else None)


def cluster_label(cluster: str) -> str:
    """The value of LABEL_CLUSTER. Unlike a team's name, a label value must begin and end with a letter or digit."""
    return cluster if cluster[:1].isalnum() and cluster[-1:].isalnum() else f"0.{cluster}.0"


def mended_label(value: str) -> str:
    """A label value of the provider as Kubernetes accepts it. Of an id without an ASCII letter or digit, the provider keeps
    only `-` and a hash, and a label value must begin and end with a letter or digit.
    """
    return value.strip("-_.")
