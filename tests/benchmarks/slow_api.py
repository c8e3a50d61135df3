"""Any API server behind a link that delays what it answers, reached by a kubeconfig of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import yaml

from tests.benchmarks.slow_link import slow_process

_FILES_OF_CLUSTER = ("certificate-authority",)
_FILES_OF_USER = ("client-certificate", "client-key", "tokenFile")


class SlowApi(NamedTuple):
    """The kubeconfig of a delayed API server, and the process that delays it."""

    kubeconfig: Path
    pid: int


@contextmanager
def slow_api(kubeconfig: Path, folder: Path, delay_s: float) -> Iterator[SlowApi]:
    """The same server, user and namespace by a kubeconfig with which every answer comes `delay_s` later.

    The events of a watch come later as well. The certificate is checked against the server's own name.
    """
    config: dict[str, Any] = yaml.safe_load(kubeconfig.read_text())
    cluster = _cluster_in_use(config)
    address = urlsplit(cluster["server"])
    host, port = address.hostname or "", address.port or (443 if address.scheme == "https" else 80)
    with slow_process(port, delay_s, host) as link:
        cluster["server"] = urlunsplit(address._replace(netloc=f"127.0.0.1:{link.port}"))
        if address.scheme == "https" and host != "127.0.0.1":
            cluster.setdefault("tls-server-name", host)
        _make_absolute(config, kubeconfig.resolve().parent)
        path = folder / "slow.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))
        yield SlowApi(path, link.pid)


def _cluster_in_use(config: dict[str, Any]) -> dict[str, Any]:
    contexts = {entry["name"]: entry["context"] for entry in config["contexts"]}
    clusters = {entry["name"]: entry["cluster"] for entry in config["clusters"]}
    found: dict[str, Any] = clusters[contexts[config["current-context"]]["cluster"]]
    return found


def _make_absolute(config: dict[str, Any], folder: Path) -> None:
    """A path in a kubeconfig is relative to its folder."""
    for entries, part, names in (("clusters", "cluster", _FILES_OF_CLUSTER), ("users", "user", _FILES_OF_USER)):
        for entry in config.get(entries) or []:
            for name in names:
                if entry[part].get(name):
                    entry[part][name] = str(folder / entry[part][name])
