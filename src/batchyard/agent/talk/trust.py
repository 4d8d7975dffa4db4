"""Whom an agent believes: its server by the authority that it was joined with, others also by those that the machine knows."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

BUNDLE = "authorities.pem"
_FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def of_server(server: str, ca_file: str | None) -> ssl.SSLContext | None:
    """Context that trusts the certificates in a PEM file alone, or the usual ones; None for plain HTTP. Raises OSError."""
    if not server.startswith("https:"):
        return None
    if ca_file is not None:
        try:
            return ssl.create_default_context(cafile=ca_file)
        except ssl.SSLError:
            raise OSError(f"{ca_file} holds no certificate in PEM") from None
    import httpx  # large; it knows which certificates are the usual ones

    return httpx.create_ssl_context()


def everywhere(ca_file: str, directory: str) -> dict[str, str]:
    """Have this process, which fetches files from the server's storage, trust the authority beside the usual ones. Raises OSError.

    The answer is what has a task's programs do the same: each of the names is read by some of the clients (docs/tls.md).
    """
    import certifi

    usual = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE") or certifi.where()
    bundle = Path(directory, BUNDLE)
    part = bundle.with_suffix(".part")
    part.write_bytes(Path(usual).read_bytes().rstrip() + b"\n" + Path(ca_file).read_bytes())
    part.chmod(0o644)
    part.replace(bundle)  # a task of before may be reading it
    os.environ.update({name: str(bundle) for name in _FILES})
    return {name: str(bundle) for name in (*_FILES, "NODE_EXTRA_CA_CERTS")}
