"""Failures as Kubernetes reports them: one exception that carries a `Status` object, one function per kind of failure.

Codes, reasons and details follow the API conventions ("Response Status Kind"), because clients branch on them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.resources import KIND_OF_RESOURCE


class StatusError(Exception):
    """A refused request. The response is the `Status` object that it carries."""

    def __init__(
        self, code: int, reason: str, message: str, details: Json | None = None, metadata: Json | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.metadata = metadata or {}

    def status(self) -> Json:
        """The `Status` object."""
        status: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details:
            status["details"] = self.details
        return status

    @property
    def retry_after_s(self) -> int | None:
        """Whole seconds for the Retry-After header; None for a response without that header."""
        value = (self.details or {}).get("retryAfterSeconds")
        return int(value) if value is not None else None


@dataclass(frozen=True)
class FieldError:
    """One cause of a 422: the field, the kind of mistake, and the text for people."""

    field: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def required(field: str, detail: str = "") -> FieldError:
    return FieldError(field, "FieldValueRequired", "Required value" + (f": {detail}" if detail else ""))


def invalid_value(field: str, value: object, detail: str) -> FieldError:
    return FieldError(field, "FieldValueInvalid", f"Invalid value: {json.dumps(value)}: {detail}")


def unsupported_value(field: str, value: object, supported: Sequence[str]) -> FieldError:
    names = ", ".join(f'"{name}"' for name in supported)
    return FieldError(
        field, "FieldValueNotSupported", f"Unsupported value: {json.dumps(value)}: supported values: {names}"
    )


def duplicate_value(field: str, value: object) -> FieldError:
    return FieldError(field, "FieldValueDuplicate", f"Duplicate value: {json.dumps(value)}")


def forbidden_value(field: str, detail: str) -> FieldError:
    return FieldError(field, "FieldValueForbidden", f"Forbidden: {detail}")


def not_found_value(field: str, value: object) -> FieldError:
    return FieldError(field, "FieldValueNotFound", f"Not found: {json.dumps(value)}")


def too_long(field: str, limit: int) -> FieldError:
    return FieldError(field, "FieldValueTooLong", f"Too long: may not be more than {limit} bytes")


def not_found(resource: str, name: str) -> StatusError:
    return StatusError(404, "NotFound", f'{resource} "{name}" not found', {"name": name, "kind": resource})


def unknown_path() -> StatusError:
    return StatusError(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource: str, name: str) -> StatusError:
    return StatusError(409, "AlreadyExists", f'{resource} "{name}" already exists', {"name": name, "kind": resource})


def conflict(resource: str, name: str, reason: str) -> StatusError:
    message = f'Operation cannot be fulfilled on {resource} "{name}": {reason}'
    return StatusError(409, "Conflict", message, {"name": name, "kind": resource})


def stale_version(resource: str, name: str) -> StatusError:
    reason = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(resource, name, reason)


def invalid(resource: str, name: str, errors: Sequence[FieldError]) -> StatusError:
    kind = KIND_OF_RESOURCE.get(resource, resource)
    text = str(errors[0]) if len(errors) == 1 else "[" + ", ".join(str(error) for error in errors) + "]"
    causes = [{"reason": error.reason, "message": error.message, "field": error.field} for error in errors]
    details: Json = {"name": name, "kind": kind, "causes": causes}
    return StatusError(422, "Invalid", f'{kind} "{name}" is invalid: {text}', details)


def invalid_options(kind: str, error: FieldError) -> StatusError:
    """422: the options of a request, such as `DeleteOptions`."""
    causes = [{"reason": error.reason, "message": error.message, "field": error.field}]
    details = {"group": "meta.k8s.io", "kind": kind, "causes": causes}
    return StatusError(422, "Invalid", f'{kind}.meta.k8s.io "" is invalid: {error}', details)


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    return StatusError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: str, name: str, reason: str, causes: list[Json] | None = None) -> StatusError:
    details: Json = {"name": name, "kind": resource}
    if causes:
        details["causes"] = causes
    return StatusError(403, "Forbidden", f'{resource} "{name}" is forbidden: {reason}', details)


def method_not_allowed() -> StatusError:
    return StatusError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})


def unsupported_media_type(accepted: Sequence[str]) -> StatusError:
    message = "the body of the request was in an unknown format - accepted media types include: " + ", ".join(accepted)
    return StatusError(415, "UnsupportedMediaType", message)


def not_acceptable() -> StatusError:
    return StatusError(406, "NotAcceptable", "only the following media types are accepted: application/json")


def expired(message: str, metadata: Json | None = None) -> StatusError:
    """410: a resource version or continue token that the server no longer keeps."""
    return StatusError(410, "Expired", message, None, metadata)


def version_too_old(requested: int, oldest: int) -> StatusError:
    return expired(f"too old resource version: {requested} ({oldest})")


def version_too_large(requested: int, current: int) -> StatusError:
    """504: the client names a version that this server has not reached yet."""
    message = f"Timeout: Too large resource version: {requested}, current: {current}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return StatusError(504, "Timeout", message, {"causes": causes, "retryAfterSeconds": 1})


def body_too_large(limit: int) -> StatusError:
    """413: the body of a request exceeds the server's limit."""
    return StatusError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")


def storage_error(message: str) -> StatusError:
    """500 without a reason: an error of the storage behind a real API server that the server returns as it is."""
    return StatusError(500, "", message)


_REASON_OF_CODE = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def error_from_code(
    code: int, message: str | None, retry_after_s: float | None, reason: str | None = None
) -> StatusError:
    """The failure of an HTTP code, for injected faults."""
    details: Json | None = None if retry_after_s is None else {"retryAfterSeconds": int(retry_after_s)}
    reason = reason or _REASON_OF_CODE.get(code, "InternalError")
    return StatusError(code, reason, message or f"injected by a fault rule: {reason}", details)
