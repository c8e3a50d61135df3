"""Parses `[podrelay] redis_url` and `redis_sentinels`, strictly. Pure: opens nothing, and imports no client.

redis-py ignores or misreads much of what people write there, or fails with the first connection. Here each mistake is one
ConfigError that says what to write. No error quotes the address, as any part of it may be part of a password.
"""

from __future__ import annotations

import difflib
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from podrelay.errors import ConfigError

URL = "[podrelay] redis_url"
SENTINELS = "[podrelay] redis_sentinels"
FORM = (
    "write redis://user:password@host:port/database, with / ? # @ and % in user and password as %2F %3F %23 %40 and %25"
)
LARGEST_DATABASE = 2**31 - 1

_HOST = re.compile(r"[\w.-]+")
_HOST_AND_PORT = re.compile(r"(.*?)(?::([^:\]]*))?")
_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[\w.-]+)?)\]")
# podrelay sets these itself: replies must be bytes, and a heartbeat may not wait longer than redis_timeout_s.
_OURS = {
    "client_name", "credential_provider", "decode_responses", "encoding", "encoding_errors", "health_check_interval",
    "legacy_responses", "max_connections", "parser_class", "retry", "retry_on_error", "retry_on_timeout",
    "socket_connect_timeout", "socket_keepalive", "socket_read_size", "socket_timeout", "timeout",
}  # fmt: skip


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis is and how to log in.

    `options` are keyword arguments of redis-py's connections: host, port and ssl_..., or path; db, protocol, username,
    password. Only what was written, except `ssl_check_hostname`: old releases of redis-py do not check it by default.
    """

    scheme: str
    options: dict[str, Any] = field(repr=False)

    @property
    def tls(self) -> bool:
        return self.scheme == "rediss"

    @property
    def shown(self) -> str:
        """The address for people, without user, password and options."""
        database = self.options.get("db", 0)
        if "path" in self.options:
            return f"unix://{self.options['path']} database {database}"
        host = self.options["host"]
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{self.options['port']}/{database}"


def parse_redis_url(url: str) -> RedisAddress:
    """:raises ConfigError: the address is wrong; the message says how to write it, and quotes no value of it."""
    found = re.fullmatch(r"(rediss?|unix)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", url)
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ConfigError(f"{URL} contains a blank or a line break: remove it, or write it as %20.")
    if found is None:
        raise ConfigError(
            f"{URL} must start with redis://, rediss:// (TLS) or unix://, for example redis://user:password@host:6379/0."
        )
    scheme, authority, path, query, fragment = found.groups()
    if scheme != "unix" and "@" in url[found.end(2) :] or fragment is not None:
        raise ConfigError(f"{URL} is invalid: a / ? or # ends the host, and an @ or # follows it; {FORM}.")
    credentials, _, server = authority.rpartition("@")
    given = _query(query, scheme)
    options = {**_credentials(credentials, given), **given}
    if scheme == "unix":
        return RedisAddress(scheme, {**options, "path": _socket(server, path)})
    options.update(_server(server))
    number = path.removeprefix("/")
    if number:
        if "db" in options:
            raise ConfigError(f"{URL} names the database twice: after the host and as db= behind the ?. Remove one.")
        options["db"] = _database(number)
    if scheme == "rediss":
        verified = options.get("ssl_cert_reqs") != "none"
        options["ssl_check_hostname"] = verified and options.get("ssl_check_hostname", True)
    return RedisAddress(scheme, options)


def parse_sentinels(text: str) -> tuple[tuple[str, int], ...]:
    """:raises ConfigError: an address has another form than host:port, separated by commas."""
    return tuple(_sentinel(part.strip()) for part in text.split(",") if part.strip())


def _sentinel(part: str) -> tuple[str, int]:
    form = "write host:port, [::1]:port for IPv6, and commas between several addresses"
    if "://" in part or "@" in part:
        raise ConfigError(
            f"{SENTINELS} takes no redis:// and no password: {form}. The password is [podrelay] redis_sentinel_password."
        )
    host, _, port = part.rpartition(":")
    if not _is_port(port) or (name := _host(host)) is None:
        raise ConfigError(f"{SENTINELS}: {part!r} is not host:port: {form}.")
    return name, int(port)


def _credentials(text: str, given: dict[str, Any]) -> dict[str, str]:
    user, _, password = text.partition(":")
    found = {name: unquote(value) for name, value in (("username", user), ("password", password)) if value}
    for name in found:
        if name in given:
            raise ConfigError(f"{URL} names the {name} twice: before the host and behind the ?. Remove one.")
    return found


def _server(text: str) -> dict[str, Any]:
    host, port = _HOST_AND_PORT.fullmatch(text).groups()  # type: ignore[union-attr]  # it matches any text
    if port is not None and not _is_port(port):
        raise ConfigError(f"{URL}: what follows the last colon is not a port from 1 to 65535; {FORM}.")
    name = _host(unquote(host))
    if name is None:
        raise ConfigError(
            f"{URL} names no valid host: {FORM}; an IPv6 address in brackets. Several hosts need {SENTINELS}."
        )
    return {"host": name, "port": int(port or 6379)}


def _host(text: str) -> str | None:
    if in_brackets := _IPV6.fullmatch(text):
        return in_brackets[1]
    return text if _HOST.fullmatch(text) else None


def _is_port(text: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", text) is not None and 1 <= int(text) <= 65535


def _socket(server: str, path: str) -> str:
    if server or len(path) < 2:
        raise ConfigError(
            f"{URL} must name the socket by its full path: unix:///run/redis/redis.sock?db=0, with three slashes, or "
            "unix://user:password@/run/redis/redis.sock."
        )
    return unquote(path)


def _query(query: str | None, scheme: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for number, item in enumerate(query.split("&") if query else [], 1):
        name, _, value = item.partition("=")
        _require_option(name, number, scheme)
        if name in options:
            raise ConfigError(f"{URL} gives {name} twice. Remove one.")
        if not value:
            raise ConfigError(f"{URL}: {name} has no value. Write {name}=value, or remove it.")
        options[name] = _OPTIONS[name](unquote(value))
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ConfigError(f"{URL}: ssl_keyfile needs ssl_certfile, the file of the client certificate.")
    return options


def _require_option(name: str, number: int, scheme: str) -> None:
    if name in _OURS:
        raise ConfigError(
            f"{URL}: podrelay sets {name} itself. Remove it; the time limit of a call is [podrelay] redis_timeout_s."
        )
    if name in _OPTIONS:
        if name.startswith("ssl_") and scheme != "rediss":
            raise ConfigError(f"{URL}: {name} needs TLS. Write rediss:// in place of {scheme}://, or remove {name}.")
        return
    # The name may be a part of a password, so it is not quoted.
    close = difflib.get_close_matches(name, _OPTIONS, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ConfigError(f"{URL}: option {number} behind the ? is unknown{hint}. Known are {', '.join(_OPTIONS)}.")


def _database(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > LARGEST_DATABASE:
        raise ConfigError(f"{URL}: the database is not a number. Write redis://host:port/0, with the number of yours.")
    return int(text)


def _protocol(text: str) -> int:
    if text not in ("2", "3"):
        raise ConfigError(f"{URL}: protocol must be 2 or 3. Remove it, unless a proxy in front of Redis needs one.")
    return int(text)


def _verification(text: str) -> str:
    if text not in ("required", "optional", "none"):
        raise ConfigError(
            f"{URL}: ssl_cert_reqs must be required, optional or none, in this spelling. none accepts any server: to trust "
            "a CA of your own, write ssl_ca_certs=/path/ca.pem."
        )
    return text


def _check_hostname(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"{URL}: ssl_check_hostname must be true or false.")
    return text.lower() == "true"


def _tls_version(text: str) -> ssl.TLSVersion:
    versions = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3, "771": ssl.TLSVersion.TLSv1_2,
                "772": ssl.TLSVersion.TLSv1_3}  # fmt: skip
    if text not in versions:
        raise ConfigError(f"{URL}: ssl_min_version must be TLSv1.2 or TLSv1.3.")
    return versions[text]


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "db": _database,
    "username": str,
    "password": str,
    "protocol": _protocol,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "ssl_cert_reqs": _verification,
    "ssl_check_hostname": _check_hostname,
    "ssl_min_version": _tls_version,
    "ssl_ciphers": str,
}
