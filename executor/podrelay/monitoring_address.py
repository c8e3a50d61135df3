"""Pure: parses `[podrelay] monitoring_bind`; every mistake is one error."""

from __future__ import annotations

import re
from dataclasses import dataclass

from podrelay.errors import ConfigError

OFF = "off"
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\s:\[\]]+):(?P<first>\d{1,5})(?:-(?P<last>\d{1,5}))?")
# Each port of a range is tried.
_PORTS_MAX = 1000


@dataclass(frozen=True)
class MonitoringAddress:
    """Where a worker serves health and metrics: at the first free one of these ports. Without a port it does not."""

    host: str = ""
    ports: range = range(0)

    def __str__(self) -> str:
        if not self.ports:
            return OFF
        host = f"[{self.host}]" if ":" in self.host else self.host
        last = f"-{self.ports[-1]}" if len(self.ports) > 1 else ""
        return f"{host}:{self.ports[0]}{last}"


def parse_monitoring_bind(text: str) -> MonitoringAddress:
    """:raises ConfigError: the text is neither an address with a port or a range of ports, nor `off`."""
    if text == OFF:
        return MonitoringAddress()
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise _error(text, "is not an address")
    first = int(found["first"])
    last = int(found["last"] or first)
    if not (0 <= first <= last <= 65535) or (first == 0 and found["last"]):
        raise _error(text, "has no port, or range of ports, from 1 to 65535")
    if last - first >= _PORTS_MAX:
        raise _error(text, f"has more than {_PORTS_MAX} ports")
    return MonitoringAddress(found["host"].strip("[]"), range(first, last + 1))


def _error(text: str, what: str) -> ConfigError:
    return ConfigError(
        f"[podrelay] monitoring_bind = {text!r} {what}: write HOST:PORT, HOST:FIRST-LAST to use the first free port, or "
        f"{OFF}. An IPv6 address stands in brackets, as in [::1]:8790."
    )
