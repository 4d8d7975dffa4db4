"""`batchyard ca`: what clients need to believe a server that speaks TLS with a certificate that nobody knows."""

from __future__ import annotations

import shlex
from pathlib import Path

from batchyard.cli import daemon, server
from batchyard.cli.problem import Problem

ALIAS = "batchyard"


def authority(directory: Path, running: daemon.Server) -> Path | None:
    """The file of the authority that clients have to be told of; None when they know it anyway."""
    if not running.url.startswith("https:"):
        return None
    own = Path(running.authority) if running.authority else directory / "tls" / "ca.pem"
    return own if daemon.authorities(directory) is not None else None


def variables(directory: Path, running: daemon.Server) -> dict[str, str]:
    """The variables by which clients find the authority; none when they need not."""
    bundle, found = daemon.authorities(directory), authority(directory, running)
    if bundle is None or found is None:
        return {}
    return {"REQUESTS_CA_BUNDLE": str(bundle), "SSL_CERT_FILE": str(bundle), "NODE_EXTRA_CA_CERTS": str(found)}


def java(file: Path) -> str:
    """The command that puts the authority into a keystore of its own, which java reads by -Djavax.net.ssl.trustStore."""
    return f"keytool -importcert -noprompt -alias {ALIAS} -file {shlex.quote(str(file))} -keystore batchyard.jks -storepass changeit"


def ca(*, directory: Path | None, pem: bool) -> None:
    """Print the authority, or how clients are told of it."""
    place = server.state_directory(directory)
    running = server.running(place)
    found = authority(place, running)
    if found is None:
        why = "speaks plain HTTP" if not running.url.startswith("https:") else "has a certificate that clients know anyway"
        raise Problem(f"the server of {place} {why}: no client has to be told of an authority")
    if pem:
        print(found.read_text().strip())
        return
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    certificate = x509.load_pem_x509_certificate(found.read_bytes())
    print(f"# authority {certificate.subject.rfc4514_string()}, good until {certificate.not_valid_after_utc:%Y-%m-%d}")
    print(f"# SHA-256 fingerprint {certificate.fingerprint(hashes.SHA256()).hex(':')}")
    print("# Python, az, curl:")
    names = variables(place, running)
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        print(f"export {name}={shlex.quote(names[name])}")
    print(f"# Node.js:\nexport NODE_EXTRA_CA_CERTS={shlex.quote(names['NODE_EXTRA_CA_CERTS'])}")
    print(f"# Java, started with -Djavax.net.ssl.trustStore=batchyard.jks:\n# {java(found)}")
    print(f"# .NET on Linux reads SSL_CERT_FILE too; all programs of a Debian machine:\n# {_debian(found)}")
    print("# on another machine: save what `batchyard ca --pem` prints there, and name that file")


def _debian(file: Path) -> str:
    return f"sudo cp {shlex.quote(str(file))} /usr/local/share/ca-certificates/batchyard.crt && sudo update-ca-certificates"
