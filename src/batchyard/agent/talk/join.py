"""How a machine becomes a node: it shows a join token, and keeps the node's own from then on.

Nothing is said before the server is known: its authority is fetched without any trust, compared with the fingerprint in the token, and
everything else goes over a connection that this authority vouches for. The name of the join is on the disk before it is sent, so that a
join whose answer was lost is asked again and not made twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import secrets
import ssl
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import msgspec

from batchyard.agent.places.identity import servers
from batchyard.model.joining import AUTHORITY_PATH, JOIN_PATH, Join, Joined, JoinRefused, JoinToken

TOKEN, AUTHORITY, ABOUT, _PENDING = "token", "ca.pem", "joined.json", "join.json"
PATIENCE_S = 60.0
"""How long a server that is away, or busy, is asked again."""
_ANSWER_S = 30.0
_LARGEST = 64 << 10


class NotJoined(Exception):
    """The machine is no node; the message is a sentence that says why."""


class Unreachable(NotJoined):
    """Nobody answers there; another server may."""


class About(msgspec.Struct, rename="camel"):
    """What a joined machine knows of itself; nothing in it is secret."""

    server: str
    account: str
    pool: str
    node: str
    token_id: str
    authority: str | None = None
    """File with the authority of the server; None where the usual ones count, or there is no TLS."""


class _Pending(msgspec.Struct):
    """A join that may have been made, and was not answered yet."""

    token_id: str
    name: str


class _Server:
    """A server, and whom to believe about it."""

    def __init__(self, url: SplitResult, trust: ssl.SSLContext | None, patience_s: float) -> None:
        self._url, self._trust, self.patience_s = url, trust, patience_s

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes | None) -> tuple[int, bytes]:
        """Status and body of an answer. Raises OSError, HTTPException."""
        host, port = self._url.hostname or "", self._url.port
        made = HTTPConnection(host, port, timeout=_ANSWER_S)
        if self._trust is not None:
            made = HTTPSConnection(host, port, timeout=_ANSWER_S, context=self._trust)
        with contextlib.closing(made) as connection:
            connection.request(method, self._url.path.rstrip("/") + path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(_LARGEST)


def about(home: Path) -> About | None:
    """What the machine joined as; None when it has not. Raises NotJoined."""
    try:
        return msgspec.json.decode((home / ABOUT).read_bytes(), type=About)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise NotJoined(f"{home / ABOUT} cannot be used ({error}): remove {home} and join with a new token") from None


def join(server: str, token: JoinToken, home: Path, *, pool: str | None, ca_file: Path | None, insecure: bool) -> About:
    """Become a node of the token's pool, by the first of the servers that answers; what it needs stands in `home`. Raises NotJoined."""
    known = servers(server) or [server]
    urls = [_url(one, insecure) for one in known]
    for url in urls[:-1]:
        with contextlib.suppress(Unreachable):
            return _join(url, ",".join(known), token, home, pool, ca_file, PATIENCE_S / len(urls))
    return _join(urls[-1], ",".join(known), token, home, pool, ca_file, PATIENCE_S / len(urls))


def _join(url: SplitResult, server: str, token: JoinToken, home: Path, pool: str | None, ca_file: Path | None, patience_s: float) -> About:
    """Raises NotJoined."""
    try:
        home.mkdir(mode=0o711, parents=True, exist_ok=True)
        authority = _authority(url, token, home, ca_file, patience_s) if url.scheme == "https" else None
        pending = _pending(home, token.id)
        trusted = ssl.create_default_context(cafile=authority) if url.scheme == "https" else None
        joined = _joined(_Server(url, trusted, patience_s), token, Join(pending.name, pool))
        _write(home / TOKEN, joined.token.encode())
        found = About(server, joined.account, joined.pool_id, joined.node_id, token.id, None if authority is None else str(authority))
        _write(home / ABOUT, msgspec.json.encode(found))
        (home / _PENDING).unlink(missing_ok=True)
    except OSError as error:
        raise NotJoined(f"{home} cannot be written ({error})") from None
    return found


def _url(server: str, insecure: bool) -> SplitResult:
    try:
        url = urlsplit(server)
        host, _ = url.hostname or "", url.port
    except ValueError as error:
        raise NotJoined(f"{server} is no URL: {error}") from None
    if url.scheme not in ("http", "https") or not host:
        raise NotJoined(f"{server} is no URL of a server, as https://host:8777")
    local = host == "localhost"
    with contextlib.suppress(ValueError):
        local = local or ipaddress.ip_address(host).is_loopback
    if url.scheme == "http" and not local and not insecure:
        raise NotJoined(f"{server} is plain HTTP, so anybody on the way could read the token; say --insecure if that is meant")
    return url


def _authority(url: SplitResult, token: JoinToken, home: Path, ca_file: Path | None, patience_s: float) -> Path | None:
    """The file of the authority to believe; None for the usual ones. Raises NotJoined."""
    if ca_file is not None:
        return ca_file.resolve()
    if not token.fingerprint:
        return None
    nobody = ssl.create_default_context()
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE  # what comes is compared with the fingerprint, and nothing is told
    status, text = _asked(_Server(url, nobody, patience_s), "GET", AUTHORITY_PATH, {}, None)
    try:
        if status != 200:
            raise ValueError(f"it answered {status}")
        der = ssl.PEM_cert_to_DER_cert(text.decode("ascii").strip())
    except ValueError as error:
        raise NotJoined(f"{url.netloc} has no authority to show: {error}") from None
    if hashlib.sha256(der).hexdigest() != token.fingerprint:
        raise NotJoined(f"{url.netloc} is not the server of this token: it has another authority. Nothing was told to it")
    path = home / AUTHORITY
    _write(path, ssl.DER_cert_to_PEM_cert(der).encode())
    return path.resolve()


def _pending(home: Path, token_id: str) -> _Pending:
    """The join that is under way with this token, or a new one, which is on the disk when this returns. Raises OSError."""
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        found = msgspec.json.decode((home / _PENDING).read_bytes(), type=_Pending)
        if found.token_id == token_id:
            return found
    made = _Pending(token_id, secrets.token_hex(24))
    _write(home / _PENDING, msgspec.json.encode(made))
    return made


def _joined(server: _Server, token: JoinToken, wish: Join) -> Joined:
    """Raises NotJoined."""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    status, body = _asked(server, "POST", JOIN_PATH, headers, msgspec.json.encode(wish))
    try:
        if status == 200:
            return msgspec.json.decode(body, type=Joined)
        refused = msgspec.json.decode(body, type=JoinRefused)
    except msgspec.MsgspecError:
        raise NotJoined(f"the server does not answer as Batchyard does (status {status})") from None
    raise NotJoined(f"{refused.message.rstrip('.')} ({refused.code})")


def _asked(server: _Server, method: str, path: str, headers: dict[str, str], body: bytes | None) -> tuple[int, bytes]:
    """An answer that counts. Raises NotJoined."""
    deadline, pause = time.monotonic() + server.patience_s, 0.2
    while True:
        try:
            status, found = server.ask(method, path, headers, body)
        except ssl.SSLCertVerificationError as error:
            raise NotJoined(f"the server's certificate is not one of the authority that is trusted ({error.verify_message})") from None
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
        else:
            if status not in (429, 502, 503, 504):
                return status, found
            reason = f"it answered {status}"
        if time.monotonic() > deadline:
            raise Unreachable(f"the server cannot be reached ({reason})")
        time.sleep(pause)
        pause = min(2 * pause, 5.0)


def _write(path: Path, content: bytes) -> None:
    """Replace a file that only its owner may read, all of it or nothing, on the disk when this returns."""
    new = path.with_name(path.name + ".part")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
