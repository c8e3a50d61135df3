"""Certificates for a TLS server of the tests and its clients, valid for a day."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]
KEY_PASSWORD = b"of-the-test"


def make_certificates(folder: Path) -> None:
    """NAME.crt and NAME.key for a CA and, signed by it, a server named localhost and a client; `stranger` is signed by
    another CA, `stale` is out of date, and `locked.key` is the client's key under a password.
    """
    ca, other = _make("ca"), _make("other")
    client = _make("client", ca)
    pairs = {"ca": ca, "other": other, "client": client, "server": _make("localhost", ca)}
    pairs |= {"stranger": _make("stranger", other), "stale": _make("localhost", ca, from_days=-3, to_days=-2)}
    for name, (certificate, key) in pairs.items():
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(_pem(key, serialization.NoEncryption()))
    (folder / "locked.key").write_bytes(_pem(client[1], serialization.BestAvailableEncryption(KEY_PASSWORD)))


def _pem(key: ec.EllipticCurvePrivateKey, encryption: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def _make(name: str, issuer: _Pair | None = None, from_days: float = -1, to_days: float = 1) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_key = issuer[1] if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=from_days))
        .not_valid_after(now + datetime.timedelta(days=to_days))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if issuer:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    else:
        builder = builder.add_extension(_of_a_ca(), critical=True)
    return builder.sign(issuer_key, hashes.SHA256()), key


def _of_a_ca() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
