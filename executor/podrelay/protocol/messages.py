"""The messages that travel through Redis: frozen values, encoded and decoded here and nowhere else.

Every decoding fault is one MessageError that never shows the payload, so that a poisoned entry is one `except` clause.
Sealing (encryption and authentication) is `podrelay.protocol.encryption`'s; this module is pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar, get_args

from podrelay.errors import MessageError

VERSION = 1

# A JSON object.
Json = dict[str, Any]

Kind = Literal["task", "callback", "connection_test"]
# pending: not over, only news of why it waits. started: a container of ours runs. expired: the token would not have
# lived long enough, so no pod was made; the executor mints a new one. The others are the end of the attempt.
Outcome = Literal["pending", "started", "succeeded", "failed", "expired"]
CleanupAction = Literal["delete", "done", "revoke"]
FailureClass = Literal["", "application", "infrastructure", "configuration"]

TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "expired"})

_Message = TypeVar("_Message", "LaunchRequest", "PodReport", "CleanupRequest")


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """What a launcher needs to make one pod. `args` holds a token: no repr shows it.

    `key` is (dag_id, task_id, run_id, try_number, map_index) of a task; empty for other kinds.
    `not_after_s` is the wall-clock time (seconds since the epoch) when the token ends; 0 where it does not.
    """

    launch_id: str
    attempt: int
    kind: Kind
    subject: str
    key: tuple[str, str, str, int, int] | tuple[()]
    owner: str
    args: tuple[str, ...] = field(repr=False)
    cluster: str = "default"
    team: str | None = None
    namespace: str = "default"
    pod_override: dict[str, Any] | None = field(default=None, repr=False)
    pod_template_file: str | None = None
    image: str | None = None
    priority: int = 1
    not_after_s: float = 0.0
    # Airflow knows this task by its id (`subject`), and not by its coordinates: its pod then carries the id as stock's do.
    known_by_id: bool = False

    def encode(self) -> bytes:
        return _encode("launch", self)

    @classmethod
    def decode(cls, payload: bytes) -> LaunchRequest:
        """:raises MessageError: on anything that `encode` would not have written."""
        request = _decode("launch", cls, payload)
        if request.kind not in get_args(Kind):
            raise MessageError(f"unknown kind of launch {request.kind!r}")
        if len(request.key) not in (0, 5):
            raise MessageError("field key is not a task key")
        return replace(request, key=tuple(request.key), args=tuple(request.args))  # type: ignore[arg-type]

    @property
    def description(self) -> str:
        """What rq-dashboard shows: never an argument, never a token."""
        if not self.key:
            return f"{self.kind.replace('_', ' ')} {self.subject}"
        dag_id, task_id, run_id, try_number, map_index = self.key
        mapped = f"[{map_index}]" if map_index >= 0 else ""
        again = f", attempt {self.attempt + 1}" if self.attempt else ""
        return f"{dag_id}.{task_id}{mapped} try {try_number}{again} ({run_id})"


@dataclass(frozen=True, slots=True)
class PodReport:
    """What became of one attempt's pod. Everything is text for people except outcome, exit_code and signal.

    `seen_at_s` is when it happened by the API server's clock where known, else when it was seen (wall clock).
    """

    launch_id: str
    attempt: int
    outcome: Outcome
    reason: str = ""
    message: str = ""
    pod: str = ""
    namespace: str = ""
    uid: str = ""
    node: str = ""
    phase: str = ""
    container: str = ""
    container_type: str = ""
    container_reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    failure_class: FailureClass = ""
    image: str = ""
    log_tail: tuple[str, ...] = ()
    seen_at_s: float = 0.0
    cluster: str = "default"

    def encode(self) -> bytes:
        return _encode("result", self)

    @classmethod
    def decode(cls, payload: bytes) -> PodReport:
        """:raises MessageError: on anything that `encode` would not have written."""
        result = _decode("result", cls, payload)
        if result.outcome not in get_args(Outcome):
            raise MessageError(f"unknown outcome {result.outcome!r}")
        return replace(result, log_tail=tuple(result.log_tail))

    @property
    def terminal(self) -> bool:
        return self.outcome in TERMINAL


@dataclass(frozen=True, slots=True)
class CleanupRequest:
    """What to do with a pod whose result the executor has acknowledged, or whose task was revoked.

    delete: remove it (404 and a foreign uid are success). done: label it as finished and keep it.
    revoke: delete it unless it is gone; label it revoked first, so that a stock watcher would ignore its end.
    """

    launch_id: str
    action: CleanupAction
    namespace: str
    pod: str
    uid: str = ""
    cluster: str = "default"
    delete_options: dict[str, Any] = field(default_factory=dict)
    # Only while no container of it has started: its task may have begun.
    unless_started: bool = False
    # revoke: the task instance of which the database was asked; a pod that is for another one stays. None: nobody asked.
    subject: str | None = None

    def encode(self) -> bytes:
        return _encode("cleanup", self)

    @classmethod
    def decode(cls, payload: bytes) -> CleanupRequest:
        """:raises MessageError: on anything that `encode` would not have written."""
        request = _decode("cleanup", cls, payload)
        if request.action not in get_args(CleanupAction):
            raise MessageError(f"unknown clean-up action {request.action!r}")
        return request


def _encode(what: str, message: Any) -> bytes:
    # Not asdict(): its deep copies cost the scheduler more than all the rest of a hand-over.
    values = {name: getattr(message, name) for name in _FIELDS[type(message)]}
    return _JSON.encode({"v": VERSION, "is": what, **values}).encode()


# json.dumps with separators makes a new encoder each time.
_JSON = json.JSONEncoder(separators=(",", ":"))


# The types a field may have on the wire; a bool is not an int here.
_WIRE_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "Kind": (str,),
    "Outcome": (str,),
    "FailureClass": (str,),
    "str | None": (str, type(None)),
    "int | None": (int, type(None)),
    "dict[str, Any]": (dict,),
    "dict[str, Any] | None": (dict, type(None)),
    "tuple[str, ...]": (list,),
    "tuple[str, str, str, int, int] | tuple[()]": (list,),
    "CleanupAction": (str,),
}

# The fields of each message, and the types that each may have on the wire.
_FIELDS: dict[type[Any], dict[str, tuple[type, ...]]] = {
    cls: {item.name: _WIRE_TYPES[str(item.type)] for item in fields(cls)}
    for cls in (LaunchRequest, PodReport, CleanupRequest)
}


def _decode(what: str, cls: type[_Message], payload: bytes) -> _Message:
    try:
        document = json.loads(payload)
    except (ValueError, TypeError) as error:
        raise MessageError(f"{what} message is not JSON") from error
    if not isinstance(document, dict) or document.pop("is", None) != what:
        raise MessageError(f"not a {what} message")
    version = document.pop("v", None)
    if version != VERSION:
        raise MessageError(f"{what} message of version {version!r}: this process reads version {VERSION}")
    known = _FIELDS[cls]
    # A field added by a newer process of the same version is for newer readers; it is not an error.
    values = {name: value for name, value in document.items() if name in known}
    for name, value in values.items():
        allowed = known[name]
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            raise MessageError(f"field {name} of a {what} message has the wrong type")
    try:
        return cls(**values)
    except TypeError as error:
        raise MessageError(f"{what} message lacks a field") from error
