"""TLS to Redis and Sentinels: tries the files that redis_url names, and finds the option that a TLS error is about.

Used by `connection` and `client_options`.

redis-py reads the files anew with each connection and reports what is wrong with them as a Redis that does not answer.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podrelay.errors import ConfigError
from podrelay.redis_address import SENTINELS, URL

# A server that misses a client certificate says so within this time after the handshake; any other says nothing.
_ALERT_WAIT_S = 0.3
_PING = b"*1\r\n$4\r\nPING\r\n"


@dataclass(frozen=True)
class Peer:
    """Whom an error is about: its name, the option with its address, and how to use no TLS, or TLS, with it."""

    name: str
    option: str
    without_tls: str
    with_tls: str


REDIS = Peer(
    "Redis",
    URL,
    "write redis:// in place of rediss://, or name the TLS port",
    "write rediss:// in place of redis://, with ssl_ca_certs=/path/ca.pem behind the ? unless the system trusts its CA",
)
SENTINEL = Peer(
    "Sentinel",
    SENTINELS,
    "set [podrelay] redis_sentinel_tls to False, or name the TLS ports",
    "set [podrelay] redis_sentinel_tls to True",
)


def make_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    """What redis-py makes of these options for each connection.

    :raises ConfigError: a file cannot be read or holds something else, or OpenSSL does not know the ciphers.
    """
    context = ssl.create_default_context()
    _apply("ssl_ca_certs", options, lambda path: context.load_verify_locations(cafile=path))
    _apply("ssl_ca_path", options, _require_folder)
    if options.get("ssl_ca_path"):
        context.load_verify_locations(capath=options["ssl_ca_path"])
    _apply("ssl_certfile", options, lambda path: Path(path).read_bytes())
    _apply("ssl_keyfile", options, lambda path: Path(path).read_bytes())
    # An empty password, because without one OpenSSL would ask for it on the terminal.
    secret = options.get("ssl_password") or ""
    _apply("ssl_certfile", options, lambda path: context.load_cert_chain(path, options.get("ssl_keyfile"), secret))
    _apply("ssl_ciphers", options, context.set_ciphers)
    context.check_hostname = bool(options.get("ssl_check_hostname", True))
    context.verify_mode = ssl.CERT_NONE if options.get("ssl_cert_reqs") == "none" else ssl.CERT_REQUIRED
    if options.get("ssl_min_version"):
        context.minimum_version = options["ssl_min_version"]
    return context


def explain(text: str, options: Mapping[str, Any], peer: Peer = REDIS) -> str | None:
    """The option that an error of OpenSSL is about, and the remedy; None for any other error.

    :param options: those of the connection; their files are named.
    """
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return _unverified(text, options, peer)
    certificate = options.get("ssl_certfile")
    if re.search(r"ALERT_(UNKNOWN_CA|BAD_CERTIFICATE|CERTIFICATE_\w+|UNSUPPORTED_CERTIFICATE|HANDSHAKE_FAILURE)", text):
        if certificate:
            return f"{peer.name} rejects the client certificate {certificate} (ssl_certfile in {URL}): {_reason(text)}."
        return f"{peer.name} requires a client certificate: set ssl_certfile and ssl_keyfile in {URL}."
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
        return _no_tls(peer)
    if "PROTOCOL_VERSION" in text or "UNSUPPORTED_PROTOCOL" in text:
        return f"{peer.name} and podrelay have no TLS version in common: check ssl_min_version in {URL}."
    return None


def diagnose(options: Mapping[str, Any], tls: bool, limit_s: float, peer: Peer = REDIS) -> str | None:
    """Connect to the server without logging in, to find out why redis-py could not: None if TLS is not the reason."""
    if "host" not in options:  # a Unix socket, or a master whose host the Sentinels name
        return None
    try:
        if not tls:
            return _if_it_uses_tls(options, limit_s, peer)
        if _answers_without_tls(options, limit_s):
            return _no_tls(peer)
        with _connection(options, limit_s) as plain:
            context = make_context(options)
            with context.wrap_socket(plain, server_hostname=options["host"]) as secured:
                secured.settimeout(min(limit_s, _ALERT_WAIT_S))
                secured.recv(1)
    except ssl.SSLError as error:
        return explain(str(error), options, peer)
    except OSError:
        pass
    return None


def _if_it_uses_tls(options: Mapping[str, Any], limit_s: float, peer: Peer) -> str | None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent
    with _connection(options, limit_s) as plain, context.wrap_socket(plain):
        return f"The port of {peer.option} uses TLS: {peer.with_tls}."


def _no_tls(peer: Peer) -> str:
    return f"The port of {peer.option} does not use TLS: {peer.without_tls}."


def _answers_without_tls(options: Mapping[str, Any], limit_s: float) -> bool:
    with _connection(options, limit_s) as plain:
        plain.sendall(_PING)
        try:
            return plain.recv(1) in (b"+", b"-")
        except OSError:
            return False


def _connection(options: Mapping[str, Any], limit_s: float) -> socket.socket:
    return socket.create_connection((options["host"], options["port"]), timeout=limit_s)


def _unverified(text: str, options: Mapping[str, Any], peer: Peer) -> str:
    why = _reason(text)
    if "mismatch" in text:
        return (
            f"The certificate of {peer.name} is for another host ({why}): write its host in {peer.option}, or "
            f"ssl_check_hostname=false in {URL}."
        )
    if "expired" in text or "not yet valid" in text:
        return (
            f"The certificate of {peer.name}, or its CA, is out of date ({why}): renew it, or set the clock of this "
            "machine."
        )
    trusted = options.get("ssl_ca_certs") or options.get("ssl_ca_path")
    remedy = (
        f"ssl_ca_certs in {URL} names {trusted}, which does not hold its CA"
        if trusted
        else f"set ssl_ca_certs in {URL} to the file of its CA"
    )
    return f"The certificate of {peer.name} is not trusted ({why}): {remedy}."


def _reason(text: str) -> str:
    found = re.search(r"\[SSL[^\]]*\] (?:certificate verify failed: )?(.*?)\.? ?\(_ssl", text)
    return found[1] if found else "TLS error"


def _apply(name: str, options: Mapping[str, Any], use: Any) -> None:
    value = options.get(name)
    if not value:
        return
    try:
        use(value)
    except ssl.SSLError as error:
        raise ConfigError(f"{URL}: {name}={value} cannot be used ({_openssl(error)}){_hint(name, options)}.") from None
    except OSError as error:
        raise ConfigError(f"{URL}: {name}={value} cannot be read ({error.strerror}).") from None


def _openssl(error: ssl.SSLError) -> str:
    return str(getattr(error, "reason", None) or error.args[-1]).lower().replace("_", " ").rstrip(".")


def _hint(name: str, options: Mapping[str, Any]) -> str:
    if name != "ssl_certfile":
        return ""
    key = options.get("ssl_keyfile")
    return f" with ssl_keyfile={key}; an encrypted key needs ssl_password" if key else "; set ssl_keyfile as well"


def _require_folder(path: str) -> None:
    next(Path(path).iterdir(), None)
