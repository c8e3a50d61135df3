"""The server's certificate and the CA that signed it, which clients get from the kubeconfig; used by `server`.

They are what a kube-apiserver makes for itself when it is given none (`GenerateSelfSignedCertKey`): RSA keys of 2048 bits,
the names by which pods and people call the server, and a CA whose key nobody keeps.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from podrelay_local_cluster.objects import clock
from podrelay_local_cluster.options import StartError

_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
)
_ADDRESS = "127.0.0.1"
_KEY_BITS, _EXPONENT = 2048, 65_537
_VALID = datetime.timedelta(days=3650)
_SKEW = datetime.timedelta(hours=1)
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", re.DOTALL)


@dataclass(frozen=True)
class ServerCertificate:
    """A certificate on disk."""

    path: Path
    """Holds the server's key, its certificate and the CA, in this order."""
    authority: str
    """The CA as PEM text."""

    @classmethod
    def from_file(cls, path: Path) -> ServerCertificate:
        """The certificate of an earlier server. Raises `StartError` when it cannot serve any more."""
        remedy = f"delete {path} to get a new one, and use the new kubeconfig"
        try:
            found = _CERTIFICATE.findall(path.read_text(encoding="ascii"))
            server, authority = (x509.load_pem_x509_certificate(pem.encode("ascii")) for pem in found)
            server.verify_directly_issued_by(authority)
        except OSError as exc:
            raise StartError(f"cannot read the server's certificate {path}: {exc.strerror}") from exc
        except (ValueError, TypeError, InvalidSignature) as exc:
            raise StartError(f"the server's certificate {path} is damaged; {remedy}") from exc
        if server.not_valid_after_utc <= clock.now():
            raise StartError(f"the server's certificate {path} expired {server.not_valid_after_utc:%Y-%m-%d}; {remedy}")
        return cls(path, found[1])

    def context(self) -> ssl.SSLContext:
        """What the server listens with. Raises `StartError` when the key does not belong to the certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.path)
        except ssl.SSLError as exc:
            raise StartError(f"the key in {self.path} is not that of its certificate; delete the file") from exc
        return context


def new_certificate(now: datetime.datetime) -> str:
    """The text of the file: a new key and certificate, signed by a new CA whose key is thrown away."""
    authority_key, key = (rsa.generate_private_key(_EXPONENT, _KEY_BITS) for _ in range(2))
    issuer = _name(f"local-cluster-ca@{int(now.timestamp())}")
    authority = _builder(issuer, issuer, authority_key, authority_key, now)
    authority = authority.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    authority = authority.add_extension(_usage(signs_certificates=True), critical=True)
    names = [x509.DNSName(name) for name in _NAMES]
    server = _builder(_name("kube-apiserver"), issuer, key, authority_key, now)
    server = server.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    server = server.add_extension(_usage(signs_certificates=False), critical=True)
    server = server.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    addresses = [x509.IPAddress(ipaddress.ip_address(_ADDRESS))]
    server = server.add_extension(x509.SubjectAlternativeName([*names, *addresses]), critical=False)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificates = [builder.sign(authority_key, hashes.SHA256()) for builder in (server, authority)]
    parts = [private, *(item.public_bytes(serialization.Encoding.PEM) for item in certificates)]
    return b"".join(parts).decode("ascii")


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: rsa.RSAPrivateKey,
    issuer_key: rsa.RSAPrivateKey,
    now: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=True, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs_certificates, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
