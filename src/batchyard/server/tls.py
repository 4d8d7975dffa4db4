"""What the server shows who connects by TLS: a certificate that is made, renewed and read anew while connections go on.

A connection keeps the certificate that it began with; those that begin later get the newest one that could be read.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from batchyard.config import Config
from batchyard.server import authority
from batchyard.server.authority import Authority
from batchyard.server.refusals import Refused, no_room

log = structlog.get_logger()

LOOK_S = 5.0
"""How often files and the time are looked at."""
_LOOPBACK = ("127.0.0.1", "::1")
_ADDRESS_OF = 0x8915
"""SIOCGIFADDR of Linux."""


class Tls:
    """The certificate of a server. `look` renews and reads anew, and raises nothing."""

    def __init__(self, config: Config, now: Callable[[], datetime]) -> None:
        """Raises Refused for what cannot be shown to anybody."""
        self._config, self._now = config, now
        self._home = config.directory / authority.DIRECTORY
        self._own: Authority | None = None
        try:
            if config.tls == "auto":
                self._own = Authority(self._home, now())
                self._own.ensure(wanted_names(config), now())
            self._files = config.tls if isinstance(config.tls, tuple) else (self._home / authority.SERVER,) * 2
            self._seen = self._stamp()
            self._current = self._load()
            self._publish()
        except (OSError, ValueError) as error:
            if no_room(error):
                raise
            raise Refused(f"no TLS with {' and '.join(map(str, self._paths()))}: {_said(error)}") from None
        self.context = _context()
        self.context.load_cert_chain(*self._files, password=_no_password)
        self.context.sni_callback = self._choose  # OpenSSL calls it for clients that name nobody too

    @property
    def names(self) -> list[str]:
        """Names and addresses that the certificate is for."""
        return authority.names_of(x509.load_pem_x509_certificate(self._files[0].read_bytes()))

    @property
    def authority_file(self) -> Path | None:
        """The authority that clients have to be told of, as PEM; None when they know it anyway."""
        return self._config.tls_authority if self._own is None else self._home / authority.CERTIFICATE

    @property
    def pinned(self) -> tuple[bytes, str] | None:
        """The authority as PEM and the SHA-256 of it; None when clients know it anyway. Raises OSError."""
        if self.authority_file is None:
            return None
        found = x509.load_pem_x509_certificate(self.authority_file.read_bytes())
        return found.public_bytes(Encoding.PEM), found.fingerprint(SHA256()).hex()

    def share(self, keep: Callable[[str], str]) -> None:
        """Be vouched for by the authority of all servers; `keep` is given this one's own and says which holds. Raises Refused, OSError."""
        if self._own is not None and authority.exchange(self._home, keep):
            self._own = Authority(self._home, self._now())
            self._own.ensure(wanted_names(self._config), self._now())
            self._publish()
            self.look()

    def look(self) -> None:
        """Renew the certificate when it is time, and read files that have changed; what cannot be read leaves all as it is."""
        try:
            if self._own is not None and self._own.ensure(wanted_names(self._config), self._now()):
                log.info("certificate renewed", file=str(self._files[0]))
            stamp = self._stamp()
            if stamp != self._seen:
                self._seen = stamp
                self._current = self._load()
                log.info("certificate read", file=str(self._files[0]))
        except (OSError, ValueError) as error:
            log.error("certificate not read, the earlier one stays", file=str(self._files[0]), reason=_said(error))

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _load(self) -> ssl.SSLContext:
        """A fresh context, so that nothing of an earlier certificate is left in it. Raises OSError, ValueError."""
        found = _context()
        found.load_cert_chain(*self._files, password=_no_password)
        return found

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        """What changes with the files."""
        return tuple((seen.st_ino, seen.st_size, seen.st_mtime_ns) for seen in (path.stat() for path in self._files))

    def _paths(self) -> tuple[Path, ...]:
        return self._config.tls if isinstance(self._config.tls, tuple) else (self._home,)

    def _publish(self) -> None:
        """What clients of this machine need stands beside the authority."""
        if self.authority_file is None:
            (self._home / authority.BUNDLE).unlink(missing_ok=True)
            return
        found = self.authority_file.read_bytes()
        x509.load_pem_x509_certificate(found)
        self._home.mkdir(mode=0o755, exist_ok=True)
        authority.write_bundle(self._home, found)


def wanted_names(config: Config) -> set[str]:
    """Names and addresses by which clients may come: this machine's, those that were given, and the accounts' below a domain."""
    advertised = urlsplit(config.advertise or "").hostname
    names = {
        "localhost",
        *_LOOPBACK,
        *([advertised] if advertised else []),
        *([config.gateway] if config.gateway else []),
        *(name for name in (socket.gethostname(), config.host) if _is_name(name)),
        *config.names,
    }
    if config.domain:
        names |= {config.domain, f"*.{config.region}.{config.domain}"}
        names |= {f"*.{service}.{config.domain}" for service in ("blob", "dfs", "queue", "table", "web")}
    try:
        bound = ipaddress.ip_address(config.host)
    except ValueError:
        return names
    return names | (set(_own_addresses()) if bound.is_unspecified else {str(bound)})


def _is_name(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return bool(text) and text.isascii()
    return False


def _own_addresses() -> Iterator[str]:
    """Addresses of this machine's interfaces, but for those that are good on one link only."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            found = _interface(probe, name)
            if found is not None:
                yield found
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        address = ipaddress.IPv6Address(int(line.split()[0], 16))
        if not address.is_link_local:
            yield str(address)


def _interface(probe: socket.socket, name: str) -> str | None:
    import fcntl

    try:
        found = fcntl.ioctl(probe.fileno(), _ADDRESS_OF, struct.pack("256s", name.encode()[:15]))
    except OSError:
        return None
    return socket.inet_ntoa(found[20:24])


def _context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    return made


def _no_password() -> str:
    """A server that starts by itself has nobody to ask."""
    raise ValueError("the key is encrypted with a password")


def _said(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        return "the key is not that of the certificate" if mismatch else "there is no certificate and key in PEM"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be read ({error.strerror})"
    return str(error) or type(error).__name__
