"""Whom an agent believes: its server by the authority that it was joined with, others also by those that the machine knows."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

BUNDLE = "authorities.pem"


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


def everywhere(ca_file: str, directory: str) -> None:
    """Have this process trust the authority beside the usual ones, for files that tasks have in the server's storage. Raises OSError."""
    import certifi

    usual = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE") or certifi.where()
    bundle = Path(directory, BUNDLE)
    bundle.write_bytes(Path(usual).read_bytes().rstrip() + b"\n" + Path(ca_file).read_bytes())
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        os.environ[name] = str(bundle)
