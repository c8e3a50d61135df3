"""Names, uids and identity checks that every kind of object shares."""

from __future__ import annotations

import random
import uuid
from typing import Any

from podrelay_local_cluster.objects import clock, decoding, schema
from podrelay_local_cluster.objects.errors import (
    bad_request,
    conflict,
    invalid,
    invalid_value,
    stale_version,
    storage_error,
)
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.record import Record
from podrelay_local_cluster.objects.resources import KIND_OF_RESOURCE

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_MAX_GENERATED_PREFIX = 58
_SERVER_OWNED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion")
_NOT_KEPT = (*_SERVER_OWNED, "selfLink", "managedFields", "generation")


def check_body(resource: str, body: Any) -> Json:
    """The body, as an object of this resource's kind. Raises `StatusError` 400."""
    kind = KIND_OF_RESOURCE[resource]
    if not isinstance(body, dict):
        raise bad_request(f"the body is no {kind}")
    version = body.get("apiVersion") or "v1"
    if (body.get("kind") or kind) != kind or version != "v1":
        raise bad_request(f'{body.get("kind")} in version "{version}" cannot be handled as a {kind}')
    empty = [field for field in ("metadata", "spec", "status") if field in body and not body[field]]
    body = {**body, **dict.fromkeys(empty)} if empty else body
    return dict(decoding.decoded(body, schema.of_object(resource)))


def for_new_object(body: Json, namespace: str) -> Json:
    """The metadata of an object to create: with name, uid and creation time. Raises `StatusError` 400."""
    given = body.get("metadata") or {}
    metadata: Json = {key: value for key, value in given.items() if key not in _NOT_KEPT and value is not None}
    if namespace:
        if metadata.get("namespace", namespace) != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        metadata["namespace"] = namespace
    else:
        metadata.pop("namespace", None)
    if not metadata.get("name") and metadata.get("generateName"):
        prefix = str(metadata["generateName"])[:_MAX_GENERATED_PREFIX]
        metadata["name"] = prefix + "".join(random.choices(_SUFFIX_LETTERS, k=5))
    metadata["uid"] = str(uuid.UUID(int=random.getrandbits(128), version=4))
    metadata["creationTimestamp"] = clock.now_text()
    return metadata


def check_unversioned(body: Json) -> None:
    """Check that an object to be stored as a new one has no version yet. Raises `StatusError` 500, as the storage does."""
    version = str((body.get("metadata") or {}).get("resourceVersion") or "")
    if version.isdecimal() and int(version):
        raise storage_error("resourceVersion should not be set on objects to be created")


def for_changed_object(resource: str, old: Record, body: Json) -> Json:
    """The metadata after an update or patch; fields owned by the server do not change. Raises `StatusError` 400 or 409."""
    given = body.get("metadata") or {}
    if not isinstance(given, dict):
        raise bad_request("metadata must be an object")
    for field, current in (("name", old.name), ("namespace", old.namespace)):
        value = given.get(field) or current
        if value != current:
            raise bad_request(f"the {field} of the object ({value}) does not match the {field} on the URL ({current})")
    uid = given.get("uid") or old.uid
    if uid != old.uid:
        reason = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old.uid}"
        raise conflict(resource, old.name, reason)
    version = str(given.get("resourceVersion") or old.version)
    if version != str(old.version):
        raise stale_version(resource, old.name)
    before = old.obj["metadata"]
    metadata = {key: value for key, value in given.items() if key not in _NOT_KEPT and value is not None}
    metadata["name"] = old.name
    if old.namespace:
        metadata["namespace"] = old.namespace
    metadata.update({key: before[key] for key in _SERVER_OWNED if key in before})
    return metadata


def check_patched(resource: str, old: Record, patched: Any) -> None:
    """Raises `StatusError` 422 for a different uid: in an update it is a precondition, in a patch it changes the field."""
    given = patched.get("metadata") if isinstance(patched, dict) else None
    if not isinstance(given, dict) or str(given.get("resourceVersion") or old.version) != str(old.version):
        return
    uid = given.get("uid") or old.uid
    if uid != old.uid:
        raise invalid(resource, old.name, [invalid_value("metadata.uid", uid, "field is immutable")])


def check_preconditions(resource: str, record: Record, preconditions: Json) -> None:
    """Raises `StatusError` 409 when a deletion names a uid or resource version that is not the object's.

    As on a real API server, this conflict names the kind; every other conflict names the resource.
    """
    uid = preconditions.get("uid")
    if uid is not None and uid != record.uid:
        reason = (
            f"the UID in the precondition ({uid}) does not match the UID in record ({record.uid}). "
            "The object might have been deleted and then recreated"
        )
        raise conflict(KIND_OF_RESOURCE[resource], record.name, reason)
    version = preconditions.get("resourceVersion")
    if version is not None and version != str(record.version):
        reason = (
            f"the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record "
            f"({record.version}). The object might have been modified"
        )
        raise conflict(KIND_OF_RESOURCE[resource], record.name, reason)
