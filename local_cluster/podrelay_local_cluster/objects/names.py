"""Pure: what names, labels and their keys may look like."""

from __future__ import annotations

import re

from podrelay_local_cluster.objects.errors import FieldError, invalid_value

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")

MAX_NAME = 253
MAX_LABEL = 63

SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character"
)
LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
    "and must start and end with an alphanumeric character"
)
LABEL_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character"
)
_QUALIFIED_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character"
)


def qualified_name(field: str, key: str) -> list[FieldError]:
    """Check the key of a label, and what follows the same rule."""
    prefix, slash, name = key.rpartition("/")
    if slash and (not SUBDOMAIN.fullmatch(prefix) or len(prefix) > MAX_NAME):
        return [invalid_value(field, key, "prefix part " + SUBDOMAIN_RULE)]
    if len(name) > MAX_LABEL:
        return [invalid_value(field, key, f"name part must be no more than {MAX_LABEL} characters")]
    return [] if _QUALIFIED_NAME.fullmatch(name) else [invalid_value(field, key, _QUALIFIED_RULE)]
