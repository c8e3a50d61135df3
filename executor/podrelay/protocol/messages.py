"""The messages in Redis: frozen values, encoded and decoded only here. Used by executor, launchers and watchers.

Every decoding fault is a MessageError that never shows the payload, so one `except` clause handles a poisoned entry.
This module is pure; `podrelay.protocol.encryption` encrypts what it encodes.
"""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Literal, TypeVar, get_args

import msgspec

from podrelay.errors import MessageError, UnknownFormat
from podrelay.protocol.sizes import REPORT_MAX, REPORT_TEXT_MAX

# The format of all messages. A release that writes another one follows a release that reads both: docs/upgrade.md.
VERSION = 1

# A JSON object; the one definition of podrelay and its workers.
Json = dict[str, Any]

Kind = Literal["task", "callback", "connection_test"]
# pending: the pod waits, with a reason. started: the task's container runs. expired: the token would have expired too soon,
# so no pod was created, and the executor issues a new token. log: the log tail of a pod whose end was reported without one,
# because an executor requested it. The other outcomes end the attempt, as expired does.
Outcome = Literal["pending", "started", "succeeded", "failed", "expired", "log"]
CleanupAction = Literal["delete", "done", "revoke"]
FailureClass = Literal["", "application", "infrastructure", "configuration"]

TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "expired"})

_Message = TypeVar("_Message", "LaunchRequest", "PodReport", "CleanupRequest", "WarmPod", "WarmShape", "WarmPodConfig")


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """What a launcher needs to create one pod. `args` contains a token: no repr shows it.

    `key` is (dag_id, task_id, run_id, try_number, map_index) of a task; empty for other kinds.
    `not_after_s` is when the token expires, in seconds since the epoch by the scheduler's clock; 0 if it does not.
    `token_life_s` is how long the token is valid in all; 0 if that is unknown.
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
    token_life_s: float = 0.0
    # Airflow identifies this task by its id (`subject`), not by its coordinates: its pod carries the id, as stock pods do.
    known_by_id: bool = False
    # Redis has lost this attempt, or may have: its pod may exist, under a name that does not say so (a warm pod's).
    repeated: bool = False

    def encode(self) -> bytes:
        return _encode("launch", self)

    @classmethod
    def decode(cls, payload: bytes) -> LaunchRequest:
        """:raises MessageError: on anything that `encode` would not have written; UnknownFormat for another format."""
        request = _decode("launch", cls, payload)
        if request.kind not in get_args(Kind):
            raise MessageError(f"unknown kind of launch {request.kind!r}")
        if request.key and [type(part) for part in request.key] != _KEY_TYPES:
            raise MessageError("field key is not a task key")
        return request

    @property
    def description(self) -> str:
        """The text in rq-dashboard: never an argument, never a token."""
        if not self.key:
            return f"{self.kind.replace('_', ' ')} {self.subject}"
        dag_id, task_id, run_id, try_number, map_index = self.key
        mapped = f"[{map_index}]" if map_index >= 0 else ""
        again = f", attempt {self.attempt + 1}" if self.attempt else ""
        return f"{dag_id}.{task_id}{mapped} try {try_number}{again} ({run_id})"


@dataclass(frozen=True, slots=True)
class PodReport:
    """The state of one attempt's pod: why it waits, that it runs, or how it ended. All texts are for people.

    `seen_at_s` is the time of the change by the API server's clock if known, else when it was observed (wall clock).
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
        """Texts that would make it longer than REPORT_MAX are shortened: no reader accepts a longer one."""
        encoded = _encode("result", self)
        return encoded if len(encoded) <= REPORT_MAX else _encode("result", self._shortened())

    @classmethod
    def decode(cls, payload: bytes) -> PodReport:
        """:raises MessageError: on anything that `encode` would not have written; UnknownFormat for another format."""
        report = _decode("result", cls, payload)
        if report.outcome not in get_args(Outcome):
            raise MessageError(f"unknown outcome {report.outcome!r}")
        return report

    def _shortened(self) -> PodReport:
        names = (name for name, types in _FIELDS[PodReport].items() if types == (str,) and name != "message")
        texts = {name: getattr(self, name)[:REPORT_TEXT_MAX] for name in names}
        lines = tuple(line[:REPORT_TEXT_MAX] for line in self.log_tail[-10:])
        return replace(self, **texts, message=self.message[: 4 * REPORT_TEXT_MAX], log_tail=lines)

    @property
    def terminal(self) -> bool:
        return self.outcome in TERMINAL


@dataclass(frozen=True, slots=True)
class CleanupRequest:
    """What to do with a pod whose result the executor has acknowledged, or whose task was revoked.

    delete: delete it (404 and a foreign uid count as success). done: label it as finished and keep it.
    revoke: label it as revoked, so that a stock watcher ignores its end, then delete it.
    """

    launch_id: str
    action: CleanupAction
    namespace: str
    pod: str
    uid: str = ""
    cluster: str = "default"
    delete_options: dict[str, Any] = field(default_factory=dict)
    # Delete the pod only while none of its containers has started: its task may have begun.
    unless_started: bool = False
    # revoke: the task instance that was checked in the database; a pod for another one stays. None: nothing was checked.
    subject: str | None = None
    # Of which attempt the pod is, where a decrypted report or the API server says so. None: the name comes from the ledger,
    # which anybody may have written, so that the name itself or, of a warm pod, its labels have to prove it.
    attempt: int | None = None

    def encode(self) -> bytes:
        return _encode("cleanup", self)

    @classmethod
    def decode(cls, payload: bytes) -> CleanupRequest:
        """:raises MessageError: on anything that `encode` would not have written; UnknownFormat for another format."""
        request = _decode("cleanup", cls, payload)
        if request.action not in get_args(CleanupAction):
            raise MessageError(f"unknown clean-up action {request.action!r}")
        return request


@dataclass(frozen=True, slots=True)
class WarmPod:
    """A warm pod, as launchers describe it to each other: where it is, and the secret key of its mailbox
    (`podrelay.protocol.mailbox`). `created_s` is the creation's wall-clock time.
    """

    warm_id: str
    shape: str
    namespace: str
    pod: str
    uid: str
    key: str = field(repr=False)
    created_s: float = 0.0
    cluster: str = "default"
    # The job of the launch that had it; a launcher is certain that it never got the workload, and never will.
    condemned_by: str = ""

    def encode(self) -> bytes:
        return _encode("warm_pod", self)

    @classmethod
    def decode(cls, payload: bytes) -> WarmPod:
        """:raises MessageError: on anything that `encode` would not have written; UnknownFormat for another format."""
        return _decode("warm_pod", cls, payload)


@dataclass(frozen=True, slots=True)
class WarmShape:
    """The pod that launches of one shape have in common, as launchers describe it to each other. It may hold secrets of a
    template: no repr shows it.
    """

    shape: str
    skeleton: dict[str, Any] = field(repr=False)
    cluster: str = "default"

    def encode(self) -> bytes:
        return _encode("warm_shape", self)

    @classmethod
    def decode(cls, payload: bytes) -> WarmShape:
        """:raises MessageError: on anything that `encode` would not have written; UnknownFormat for another format."""
        return _decode("warm_shape", cls, payload)


@dataclass(frozen=True, slots=True)
class WarmPodConfig:
    """What a warm pod is started with, in its arguments or in a Secret: the deployment, its id, the secret key of its
    mailbox, and how long it waits for a workload.
    """

    deployment: str
    warm_id: str
    key: str = field(repr=False)
    idle_s: float

    def encode(self) -> bytes:
        return _encode("warm_pod_config", self)

    @classmethod
    def decode(cls, payload: bytes) -> WarmPodConfig:
        """:raises MessageError: on anything that `encode` would not have written; UnknownFormat for another format."""
        return _decode("warm_pod_config", cls, payload)


def _encode(what: str, message: Any) -> bytes:
    # Not asdict(): its deep copies cost the scheduler more than the rest of an offer.
    document: Json = {"v": VERSION, "is": what}
    for name, default in _DEFAULTS[type(message)]:
        value = getattr(message, name)
        # A reader has the same default: most fields of a report, and a third of its bytes, are not sent.
        if value != default:
            document[name] = value
    return _JSON.encode(document).encode()


# json.dumps with separators creates an encoder per call.
_JSON = json.JSONEncoder(separators=(",", ":"))


_KEY_TYPES = [str, str, str, int, int]

# The JSON types of a field; a bool is not an int here.
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

# The fields of each message, with their types on the wire.
_FIELDS: dict[type[Any], dict[str, tuple[type, ...]]] = {
    cls: {item.name: _WIRE_TYPES[str(item.type)] for item in fields(cls)}
    for cls in (LaunchRequest, PodReport, CleanupRequest, WarmPod, WarmShape, WarmPodConfig)
}

# The fields of each message, with their defaults. A default that a release changed would make it another format.
_DEFAULTS: dict[type[Any], list[tuple[str, object]]] = {
    cls: [
        (item.name, item.default if item.default_factory is MISSING else item.default_factory()) for item in fields(cls)
    ]
    for cls in _FIELDS
}

# Lists of texts.
_TEXTS = frozenset({"args", "log_tail"})


def _check_format(what: str, version: object) -> None:
    if type(version) is not int:
        raise MessageError(f"{what} message without a format number")
    if version != VERSION:
        raise UnknownFormat(f"{what} message of format {version}, and this process reads format {VERSION}")


def parsed(text: bytes | str) -> Any:
    """The JSON document, by msgspec where it accepts the text: in a fifth of the time. It refuses half of a surrogate pair.

    :raises ValueError: the text is not JSON.
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return json.loads(text)


def _decode(what: str, cls: type[_Message], payload: bytes) -> _Message:
    try:
        document = parsed(payload)
    except (ValueError, TypeError, RecursionError) as error:
        raise MessageError(f"{what} message is not JSON") from error
    if not isinstance(document, dict) or document.pop("is", None) != what:
        raise MessageError(f"not a {what} message")
    _check_format(what, document.pop("v", None))
    known, values = _FIELDS[cls], {}
    for name, value in document.items():
        allowed = known.get(name)
        if allowed is None:
            continue  # a newer process of the same version added this field; it is not an error
        kind = type(value)
        if kind not in allowed:
            raise MessageError(f"field {name} of a {what} message has the wrong type")
        if kind is float and not math.isfinite(value):
            raise MessageError(f"field {name} of a {what} message is not a finite number")
        if kind is list:
            if name in _TEXTS and not all(isinstance(part, str) for part in value):
                raise MessageError(f"field {name} of a {what} message holds something else than texts")
            value = tuple(value)
        values[name] = value
    try:
        return cls(**values)
    except TypeError as error:
        raise MessageError(f"{what} message lacks a field") from error
