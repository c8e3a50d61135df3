"""What requests need of a Kubernetes client's configuration, as plain data. Used by `credentials` and `provider_client`.

It has those attributes of the client libraries' `Configuration` that are read here, so that either can be used.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# A path, or what the file holds.
File = str | bytes | None
_FILES = ("ssl_ca_cert", "cert_file", "key_file")


@dataclass
class PlainConfiguration:
    """The token of `api_key` is renewed from `token_file`, if there is one.

    :param token_every_s: how often the token file is read.
    """

    host: str
    verify_ssl: bool = True
    disable_strict_ssl_verification: bool = False
    ssl_ca_cert: File = field(default=None, repr=False)
    cert_file: File = field(default=None, repr=False)
    key_file: File = field(default=None, repr=False)
    tls_server_name: str | None = None
    proxy: str | None = field(default=None, repr=False)
    no_proxy: str | None = None
    proxy_headers: dict[str, str] | None = field(default=None, repr=False)
    authorization: str = field(default="", repr=False)
    token_file: str | None = None
    token_every_s: float = 60.0

    def as_json(self) -> dict[str, Any]:
        values = asdict(self)
        for name in _FILES:
            if isinstance(values[name], bytes):
                values[name] = {"base64": base64.b64encode(values[name]).decode()}
        return values

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> PlainConfiguration:
        """:raises TypeError: an unknown field."""
        found = dict(values)
        for name in _FILES:
            if isinstance(found.get(name), dict):
                found[name] = base64.b64decode(found[name]["base64"])
        return cls(**found)

    # --- as the client libraries have it ------------------------------------------------------------------------------
    @property
    def api_key(self) -> dict[str, str]:
        return {"BearerToken": self.authorization} if self.authorization else {}

    @property
    def api_key_prefix(self) -> dict[str, str]:
        return {}

    @property
    def username(self) -> None:
        return None

    @property
    def password(self) -> None:
        return None

    @property
    def refresh_api_key_hook(self) -> Any:
        return PlainConfiguration.read_token_file if self.token_file else None

    def read_token_file(self) -> None:
        """Read the token again; the one of before stays in use if that fails.

        :raises OSError: the file cannot be read.
        :raises ValueError: it is empty.
        """
        token = Path(self.token_file or "").read_text().strip()
        if not token:
            raise ValueError(f"the token file {self.token_file} is empty")
        self.authorization = f"Bearer {token}"
