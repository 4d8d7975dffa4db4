"""The server's own certificate authority: made at its first start, and the certificates that it signs for the server.

The authority's key never leaves its file (0600). A server's certificate and key are one file, so that a crash leaves both or neither; the
key of the authority is on the disk before its certificate, so a certificate without a key is one whose key was lost.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from batchyard.server.account_file import write_private
from batchyard.server.refusals import Refused

DIRECTORY, CERTIFICATE, KEY, SERVER, BUNDLE = "tls", "ca.pem", "ca.key", "server.pem", "bundle.pem"
AUTHORITY_LASTS, SERVER_LASTS = timedelta(days=3650), timedelta(days=90)
RENEWED_BEFORE = timedelta(days=30)
"""A server's certificate is made anew so long before it ends."""
_BEGIN = "-----BEGIN CERTIFICATE-----"
_SKEW = timedelta(days=1)
"""How far the clocks of clients may be behind."""


class Authority:
    """An authority in a directory of its own; made there unless it is there."""

    def __init__(self, directory: Path, now: datetime) -> None:
        """Raises Refused for one that cannot be used, OSError."""
        self._directory = directory
        directory.mkdir(mode=0o755, exist_ok=True)
        certificate, key = directory / CERTIFICATE, directory / KEY
        if not certificate.exists():
            _make(directory, now)
        try:
            self.certificate = x509.load_pem_x509_certificate(certificate.read_bytes())
            loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        except (OSError, ValueError) as error:
            raise Refused(f"{certificate} and its key cannot be used ({error}): put a copy back, {_anew(directory)}") from None
        if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != self.certificate.public_key():
            raise Refused(f"{key} is not the key of {certificate}: put the right one back, {_anew(directory)}")
        if self.certificate.not_valid_after_utc <= now:
            raise Refused(f"{certificate} has ended on {self.certificate.not_valid_after_utc:%Y-%m-%d}: {_anew(directory)[3:]}")
        self._key = loaded

    def ensure(self, names: Collection[str], now: datetime) -> bool:
        """See to it that there is a server's certificate for these names that lasts; True when it was made. Raises OSError."""
        if self._fits(names, now):
            return False
        write_private(self._directory / SERVER, self._sign(names, now))
        return True

    def _fits(self, names: Collection[str], now: datetime) -> bool:
        try:
            found = x509.load_pem_x509_certificate((self._directory / SERVER).read_bytes())
            found.verify_directly_issued_by(self.certificate)
        except Exception:  # missing, cut off, or another authority's
            return False
        lasts = found.not_valid_after_utc - now > RENEWED_BEFORE or found.not_valid_after_utc == self.certificate.not_valid_after_utc
        return lasts and set(names) <= set(names_of(found))

    def _sign(self, names: Collection[str], now: datetime) -> bytes:
        """Certificate and key of a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        built = (
            _builder(_name("Batchyard server"), self.certificate.subject, key.public_key())
            .not_valid_before(self.certificate.not_valid_before_utc)  # as early as anything is, however the clocks go
            .not_valid_after(min(now + SERVER_LASTS, self.certificate.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in sorted(names)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        return built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + _pem(key)


def exchange(directory: Path, keep: Callable[[str], str]) -> bool:
    """Have the authority of all servers: `keep` is given this one's and says which holds; True when it is another. Raises OSError."""
    own = (directory / KEY).read_text() + (directory / CERTIFICATE).read_text()
    held = keep(own)
    if held == own:
        return False
    key, begin, certificate = held.partition(_BEGIN)
    write_private(directory / KEY, key.encode())
    write_private(directory / CERTIFICATE, (begin + certificate).encode())
    (directory / CERTIFICATE).chmod(0o644)
    return True


def names_of(certificate: x509.Certificate) -> list[str]:
    """Names and addresses that a certificate is for."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]


def write_bundle(directory: Path, authority: bytes) -> None:
    """Beside the authority a file with all that this machine trusts anyway, for clients that take one file and no more."""
    import certifi

    usual = Path(certifi.where()).read_bytes()
    new = directory / f"{BUNDLE}.part"
    new.write_bytes(usual.rstrip() + b"\n" + authority)
    new.chmod(0o644)
    new.replace(directory / BUNDLE)


def _make(directory: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"Batchyard authority {os.urandom(4).hex()}")
    built = (
        _builder(name, name, key.public_key())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + AUTHORITY_LASTS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    write_private(directory / KEY, _pem(key))
    certificate = directory / CERTIFICATE
    write_private(certificate, built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    certificate.chmod(0o644)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key).serial_number(x509.random_serial_number())
    return made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(*, signs: bool) -> x509.KeyUsage:
    other = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    return x509.KeyUsage(digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, **other)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _anew(directory: Path) -> str:
    return f"or remove {directory} to make a new authority, which every client and joined node has to be told of"
