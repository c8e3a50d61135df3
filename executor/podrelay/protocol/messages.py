"""The messages in Redis: frozen values, encoded and decoded only here. Used by executor, launchers and watchers.

Every decoding fault is a MessageError that never shows the payload, so one `except` clause handles a poisoned entry.
This module is pure; `podrelay.protocol.encryption` encrypts what it encodes.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from podrelay.errors import MessageError, UnknownFormat
from podrelay.protocol.json_text import encoded, parsed
from podrelay.protocol.sizes import REPORT_MAX, REPORT_TEXT_MAX

if TYPE_CHECKING:
    from typing_extensions import Self

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

# How every message begins, and then its name. A reader has the same defaults: most fields of a report, and a third of its
# bytes, are not sent. A default that a release changed would make it another format.
_BEGINNING = f'{{"v":{VERSION},'.encode()
_NAMED = _BEGINNING + b'"is":"'

# In the words of msgspec: behind the fault, which may quote the payload.
_FIELD_AT_FAULT = re.compile(r"`(?:\$\.)?(\w+)[^`]*`\Z")

if TYPE_CHECKING:
    TaskKey = tuple[str, str, str, int, int] | tuple[()]
else:  # msgspec knows no union of tuples; `decode` checks the rest
    TaskKey = tuple[str | int, ...]
_KEY_TYPES = (str, str, str, int, int)


class _Message(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="is"):
    """What all messages have in common. Unknown fields are ignored: a newer process of the same format added them."""

    # No repr shows these fields.
    SECRET: ClassVar[frozenset[str]] = frozenset()

    def encode(self) -> bytes:
        """The message as JSON."""
        try:
            return _BEGINNING + msgspec.json.encode(self)[1:]
        except (TypeError, ValueError, OverflowError):
            document = {"v": VERSION, "is": self.__struct_config__.tag, **msgspec.structs.asdict(self)}
            return encoded(document)

    def replaced(self, **fields: Any) -> Self:
        """The same message, but for these fields."""
        return msgspec.structs.replace(self, **fields)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """:raises MessageError: on anything that `encode` would not have written; UnknownFormat for another format."""
        if payload.startswith(_NAMED):
            try:
                return msgspec.json.decode(payload, type=cls)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                pass  # what follows accepts a little more, and says what is wrong
        return cls._decode_any(payload)

    @classmethod
    def _decode_any(cls, payload: bytes) -> Self:
        """The message in JSON of any form, or what is wrong with it. The error never shows the payload."""
        what = cls.__struct_config__.tag
        try:
            document = parsed(payload)
        except (ValueError, RecursionError) as error:
            raise MessageError(f"{what} message is not JSON") from error
        if not isinstance(document, dict) or document.get("is") != what:
            raise MessageError(f"not a {what} message")
        version = document.get("v")
        if type(version) is not int:
            raise MessageError(f"{what} message without a format number")
        if version != VERSION:
            raise UnknownFormat(f"{what} message of format {version}, and this process reads format {VERSION}")
        # Without what is unknown, whose names msgspec may refuse as well.
        known = {name: document[name] for name in cls.__struct_fields__ if name in document}
        try:
            message = msgspec.convert(known, cls)
        except (msgspec.ValidationError, ValueError, RecursionError) as error:
            field = _FIELD_AT_FAULT.search(str(error))
            name = field[1] if field else "(unknown)"
            raise MessageError(f"field {name} of a {what} message is missing or invalid") from None
        for name, value in msgspec.structs.asdict(message).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise MessageError(f"field {name} of a {what} message is not a finite number")
        return message

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in msgspec.structs.asdict(self).items() if name not in self.SECRET]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


class LaunchRequest(_Message, frozen=True, tag="launch"):
    """What a launcher needs to create one pod. `args` contains a token: no repr shows it.

    `key` is (dag_id, task_id, run_id, try_number, map_index) of a task; empty for other kinds.
    `not_after_s` is when the token expires, in seconds since the epoch by the scheduler's clock; 0 if it does not.
    `token_life_s` is how long the token is valid in all; 0 if that is unknown.
    """

    SECRET = frozenset({"args", "pod_override"})

    launch_id: str
    attempt: int
    kind: Kind
    subject: str
    key: TaskKey
    owner: str
    args: tuple[str, ...]
    cluster: str = "default"
    team: str | None = None
    namespace: str = "default"
    pod_override: dict[str, Any] | None = None
    pod_template_file: str | None = None
    image: str | None = None
    priority: int = 1
    not_after_s: float = 0.0
    token_life_s: float = 0.0
    # Airflow identifies this task by its id (`subject`), not by its coordinates: its pod carries the id, as stock pods do.
    known_by_id: bool = False
    # Redis has lost this attempt, or may have: its pod may exist, under a name that does not say so (a warm pod's).
    repeated: bool = False

    @classmethod
    def decode(cls, payload: bytes) -> LaunchRequest:
        """As of every message."""
        request = super().decode(payload)
        if request.key and tuple(map(type, request.key)) != _KEY_TYPES:
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


class PodReport(_Message, frozen=True, tag="result"):
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
    failure_class: str = ""  # a FailureClass; a newer process may know another one
    image: str = ""
    log_tail: tuple[str, ...] = ()
    seen_at_s: float = 0.0
    cluster: str = "default"

    def encode(self) -> bytes:
        """Texts that would make it longer than REPORT_MAX are shortened: no reader accepts a longer one."""
        encoded = super().encode()
        return encoded if len(encoded) <= REPORT_MAX else super(PodReport, self._shortened()).encode()

    def _shortened(self) -> PodReport:
        values = msgspec.structs.asdict(self)
        texts = {name: value[:REPORT_TEXT_MAX] for name, value in values.items() if isinstance(value, str)}
        lines = tuple(line[:REPORT_TEXT_MAX] for line in self.log_tail[-10:])
        return self.replaced(**{**texts, "message": self.message[: 4 * REPORT_TEXT_MAX], "log_tail": lines})

    @property
    def terminal(self) -> bool:
        return self.outcome in TERMINAL


class CleanupRequest(_Message, frozen=True, tag="cleanup"):
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
    delete_options: dict[str, Any] = {}
    # Delete the pod only while none of its containers has started: its task may have begun.
    unless_started: bool = False
    # revoke: the task instance that was checked in the database; a pod for another one stays. None: nothing was checked.
    subject: str | None = None
    # Of which attempt the pod is, where a decrypted report or the API server says so. None: the name comes from the ledger,
    # which anybody may have written, so that the name itself or, of a warm pod, its labels have to prove it.
    attempt: int | None = None


class WarmPod(_Message, frozen=True, tag="warm_pod"):
    """A warm pod, as launchers describe it to each other: where it is, and the secret key of its mailbox
    (`podrelay.protocol.mailbox`). `created_s` is the creation's wall-clock time.
    """

    SECRET = frozenset({"key"})

    warm_id: str
    shape: str
    namespace: str
    pod: str
    uid: str
    key: str
    created_s: float = 0.0
    cluster: str = "default"
    # The job of the launch that had it; a launcher is certain that it never got the workload, and never will.
    condemned_by: str = ""


class WarmShape(_Message, frozen=True, tag="warm_shape"):
    """The pod that launches of one shape have in common, as launchers describe it to each other. It may hold secrets of a
    template: no repr shows it.
    """

    SECRET = frozenset({"skeleton"})

    shape: str
    skeleton: dict[str, Any]
    cluster: str = "default"


class WarmPodConfig(_Message, frozen=True, tag="warm_pod_config"):
    """What a warm pod is started with, in its arguments or in a Secret: the deployment, its id, the secret key of its
    mailbox, and how long it waits for a workload.
    """

    SECRET = frozenset({"key"})

    deployment: str
    warm_id: str
    key: str
    idle_s: float
