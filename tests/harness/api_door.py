"""A door to an API server: TLS with certificates of its own authority, which lets in whoever has a token or a certificate."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import ssl
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Json = dict[str, Any]


# --- a certificate authority --------------------------------------------------------------------------------------------
@dataclass
class Authority:
    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, folder: Path) -> Authority:
        """Like kubeadm's: with key usages and the identifiers that strict verification requires."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(True, False, True, False, False, True, False, False, False)
        builder = _builder("kubernetes", key.public_key()).issuer_name(_name("kubernetes"))
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        made = cls(folder, key, certificate)
        (folder / "ca.crt").write_bytes(made.pem(certificate))
        return made

    def issue(self, name: str, hosts: tuple[str, ...] = (), address: str = "") -> tuple[Path, Path]:
        """The files of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        if address:
            names.append(x509.IPAddress(ipaddress.ip_address(address)))
        builder = _builder(name, key.public_key()).issuer_name(self.certificate.subject)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        crt, pem = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        crt.write_bytes(self.pem(builder.sign(self.key, hashes.SHA256())))
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        pem.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
        return crt, pem

    @staticmethod
    def pem(certificate: x509.Certificate) -> bytes:
        return certificate.public_bytes(serialization.Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(name: str, key: Any) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    hour = datetime.timedelta(hours=1)
    builder = x509.CertificateBuilder().subject_name(_name(name)).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - hour).not_valid_after(now + hour)


# --- an API server behind TLS -------------------------------------------------------------------------------------------
class Door:
    """Accepts a token or a client certificate, and records what it was sent."""

    def __init__(self) -> None:
        self.tokens: set[str] = set()
        self.rejected: set[str] = set()  # names in certificates
        self.shown: list[str] = []
        self.paths: list[str] = []
        self.port = 0

    async def handle(self, request: web.Request) -> web.Response:
        transport = request.transport
        assert transport is not None
        self.paths.append(request.path)
        certificate = transport.get_extra_info("peercert") or {}
        subject = [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.shown.append(subject[0] if subject else token)
        if (subject and subject[0] not in self.rejected) or token in self.tokens:
            return web.json_response({"kind": "Pod", "metadata": {"name": "a", "namespace": "default"}})
        status = {"kind": "Status", "code": 401, "reason": "Unauthorized", "message": "Unauthorized"}
        return web.json_response(status, status=401)


@asynccontextmanager
async def door(authority: Authority, *hosts: str, address: str = "127.0.0.1") -> AsyncIterator[Door]:
    made = Door()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.folder / "ca.crt"))
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_cert_chain(*authority.issue("server", hosts, address))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, address or "127.0.0.1", 0, ssl_context=context).start()
    made.port = runner.addresses[0][1]
    try:
        yield made
    finally:
        await runner.cleanup()


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def ca(authority: Authority) -> Json:
    return {"certificate-authority-data": encoded(authority.folder / "ca.crt")}


def exec_user(folder: Path, status: Json) -> Json:
    """A user whose exec plugin prints this status."""
    (folder / "status.json").write_text(json.dumps(status))
    return plugin(folder, '(folder / "status.json").read_text()')


def plugin(folder: Path, status: str = 'json.dumps({"token": (folder / "token").read_text()})') -> Json:
    """A user whose exec plugin prints the token from a file, or another status, and counts its calls."""
    path = folder / "plugin.py"
    path.write_text(f"""#!{sys.executable}
import json, pathlib
folder = pathlib.Path({str(folder)!r})
with (folder / "calls").open("a") as calls:
    calls.write(".")
kind = {{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}}
print(json.dumps({{**kind, "status": json.loads({status})}}))
""")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    words = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(path), "interactiveMode": "Never"}
    return {"exec": words}
