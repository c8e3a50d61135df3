"""The server's certificate: who trusts it, what it is valid for, and what becomes of it after a restart."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from podrelay_local_cluster.certificate import new_certificate
from tests.harness.cluster_api import NamespaceApi, held
from tests.harness.local_cluster import LocalCluster


def connect(
    cluster: LocalCluster, tls: ssl.SSLContext, name: str, session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", int(cluster.url.rpartition(":")[2])), timeout=10)
    return tls.wrap_socket(plain, server_hostname=name, session=session)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "kubernetes.default.svc"])
def test_the_certificate_is_that_of_an_api_server(simulated_cluster: LocalCluster, name: str) -> None:
    with connect(simulated_cluster, simulated_cluster.tls, name) as connection:
        assert connection.version() == "TLSv1.3"
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    key = x509.load_der_x509_certificate(shown).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 2048


def test_a_client_that_returns_resumes_its_session(simulated_cluster: LocalCluster) -> None:
    with connect(simulated_cluster, simulated_cluster.tls, "localhost") as first:
        first.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert first.recv(1000).startswith(b"HTTP/1.1 200")
        session = first.session
    with connect(simulated_cluster, simulated_cluster.tls, "localhost", session) as second:
        assert second.session_reused


@pytest.mark.parametrize("name", ["example.com", "127.0.0.2"])
def test_another_name_is_refused(simulated_cluster: LocalCluster, name: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(simulated_cluster, simulated_cluster.tls, name)


def test_the_ca_of_another_cluster_is_refused(simulated_cluster: LocalCluster, process_cluster: LocalCluster) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        connect(simulated_cluster, process_cluster.tls, "localhost")


def test_plain_http_is_refused(simulated_cluster: LocalCluster) -> None:
    url = simulated_cluster.url.replace("https:", "http:")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/readyz", timeout=10)
    assert simulated_cluster.stats()


class TestDataDirectory:
    """The next server on a data directory."""

    @pytest.fixture
    def own(self, tmp_path: Path) -> LocalCluster:
        cluster = LocalCluster(tmp_path / "files", data_dir=tmp_path / "data", runner="simulate")
        cluster.start()
        assert cluster.stop() == 0
        return cluster

    @pytest.fixture
    def kept(self, own: LocalCluster, tmp_path: Path) -> Path:
        return tmp_path / "data" / "certificate.pem"

    def test_the_certificate_is_kept(self, own: LocalCluster, kept: Path) -> None:
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        before = own.kubeconfig.read_text()
        with own:
            assert own.kubeconfig.read_text() == before
            NamespaceApi(own, "default").create(held())

    def test_the_key_is_not_in_the_kubeconfig(self, own: LocalCluster) -> None:
        cluster = json.loads(own.kubeconfig.read_text())["clusters"][0]["cluster"]
        assert "PRIVATE" not in base64.b64decode(cluster["certificate-authority-data"]).decode()

    def test_a_damaged_one_is_named(self, own: LocalCluster, kept: Path) -> None:
        for damaged in ("", "x", kept.read_text()[:-200], kept.read_text().replace("CERTIFICATE", "THING")):
            kept.write_text(damaged)
            with pytest.raises(RuntimeError, match=rf"certificate {kept} is damaged; delete {kept} to get a new one"):
                own.start()

    def test_a_file_that_cannot_be_read_is_named(self, own: LocalCluster, kept: Path) -> None:
        kept.unlink()
        kept.mkdir()
        with pytest.raises(RuntimeError, match=rf"cannot read the server's certificate {kept}: Is a directory"):
            own.start()

    def test_the_key_of_another_certificate_is_named(self, own: LocalCluster, kept: Path) -> None:
        key = new_certificate(datetime.now(timezone.utc)).partition("-----BEGIN CERTIFICATE-----")[0]
        kept.write_text(key + "".join(kept.read_text().partition("-----BEGIN CERTIFICATE-----")[1:]))
        with pytest.raises(RuntimeError, match=rf"the key in {kept} is not that of its certificate; delete the file"):
            own.start()

    def test_an_expired_one_is_named(self, own: LocalCluster, kept: Path) -> None:
        long_ago = datetime.now(timezone.utc) - timedelta(days=4000)
        kept.write_text(new_certificate(long_ago))
        with pytest.raises(RuntimeError, match=rf"certificate {kept} expired \d\d\d\d-\d\d-\d\d; delete {kept}"):
            own.start()
