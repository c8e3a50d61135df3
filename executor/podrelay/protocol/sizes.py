"""Pure: how long what podrelay writes to Redis can be. Readers refuse what is longer before it is transferred (prelude.lua).

The limit of a launch follows from that of etcd, 1.5 MiB for a whole object: the pod of a longer one could never be created.
"""

from __future__ import annotations

# A launch or clean-up request as JSON, in bytes.
REQUEST_MAX = 3 << 19
# A report as JSON, in bytes. Where its texts have to be shortened, each has at most so many characters, the message
# four times as many: JSON may need twelve bytes for one.
REPORT_MAX = 96 << 10
REPORT_TEXT_MAX = 300
# The pod of a shape of warm pods as JSON: launches with a longer one have no warm pods.
WARM_SHAPE_MAX = 256 << 10


def encrypted(length: int) -> int:
    """The most characters that a Fernet token of so many bytes has."""
    return (length + 16 + 57 + 2) // 3 * 4


# The data of an RQ job, and the encrypted report in ledger and stream.
JOB_MAX = encrypted(REQUEST_MAX) + 200
RESULT_MAX = encrypted(REPORT_MAX)
