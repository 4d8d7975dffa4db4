"""A small synchronous client of the public HTTP API: signed requests, pages, errors as Problems.

Reads are tried again while a server that answered before is away (it restarts, the network stutters); writes are sent
once, unless the server says that it is busy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from typing import IO, Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from batchyard.agent.http import Answer, Http, Unreachable
from batchyard.api.wire import auth
from batchyard.cli.problem import Problem

API_VERSION = "2025-06-01"
PATIENCE_S = 30.0
"""How long a server that answered before may be away, in seconds."""
CHUNK = 1 << 20
"""Bytes of a file that are read at a time."""
_JSON = "application/json; odata=minimalmetadata"
UNKNOWN = frozenset({"InvalidUri", "UnsupportedHttpVerb", "HTTP 404", "HTTP 405"})
"""What a service answers that does not know an operation of ours."""
_PASSING = (429, 500, 502, 503, 504)
_BODIES = ("POST", "PUT", "PATCH")

Found = dict[str, Any]


class Refused(Problem):
    """An error answer of the server; `error` is its code, as in JobNotFound."""

    def __init__(self, error: str, text: str) -> None:
        super().__init__(f"{text.rstrip('.')} ({error})")
        self.error = error


class _Page(msgspec.Struct):
    """A part of a list, its entries as they came."""

    value: list[msgspec.Raw] = []
    next_link: str | None = msgspec.field(name="odata.nextLink", default=None)


class Client:
    """A server as one account sees it; several threads may use it."""

    def __init__(self, url: str, account: str, key: str, storage: str | None = None) -> None:
        self.url, self.account, self.storage = url, account, storage
        self._key = key
        self._path = urlsplit(url).path.rstrip("/")
        try:
            self._http = Http(url)
        except Unreachable as error:
            raise Problem(f"cannot reach the server: {error}") from None
        self._answered = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, *path: str, **query: str) -> Found:
        """A resource. Raises Refused."""
        return self._json(self.send("GET", self._at(path, query)))

    def raw(self, *path: str, **query: str) -> Iterator[list[msgspec.Raw]]:
        """A list page by page, its entries as the JSON that came. Raises Refused."""
        target: str | None = self._at(path, query)
        while target:
            page = self._decoded(self.send("GET", target).body, _Page)
            yield page.value
            parts = urlsplit(page.next_link or "")
            target = f"{parts.path}?{parts.query}" if page.next_link else None

    def listed(self, *path: str, **query: str) -> Iterator[Found]:
        """All entries of a list, page by page. Raises Refused."""
        for page in self.raw(*path, **query):
            for entry in page:
                yield msgspec.json.decode(entry)

    def post(self, *path: str, body: object = None, **query: str) -> Found:
        """Add something, or act on something. Raises Refused."""
        return self._json(self.send("POST", self._at(path, query), body))

    def change(self, method: str, *path: str, body: object) -> None:
        """PUT or PATCH something. Raises Refused."""
        self.send(method, self._at(path, {}), body)

    def delete(self, *path: str, **query: str) -> None:
        """Delete something. Raises Refused."""
        self.send("DELETE", self._at(path, query))

    def read(self, *path: str, offset: int = 0, most: int = CHUNK) -> bytes:
        """At most so many bytes of a file from `offset` on; none when it has no more yet. Raises Refused."""
        try:
            return self.send("GET", self._at(path, {}), more={"ocp-range": f"bytes={offset}-{offset + most - 1}"}).body
        except Refused as refused:
            if refused.error == "InvalidRange":
                return b""
            raise

    def stream(self, *path: str, body: object) -> Iterator[bytes]:
        """Add something whose answer comes in pieces while it happens. Raises Refused, Problem."""
        target, content = self._at(path, {}), msgspec.json.encode(body)
        try:
            with self._http.stream("POST", target, self._headers("POST", target, content, {}), content) as (answer, pieces):
                if answer.status != 200:
                    raise _refusal(self._http.host, "POST", target, answer._replace(body=b"".join(pieces)))
                yield from pieces
        except Unreachable as error:
            raise Problem(f"the connection to the server at {self.url} broke ({error})") from None

    def upload(self, *path: str, file: IO[bytes]) -> Found:
        """PUT a file, as large as it may be. Raises Refused, Problem."""
        target = self._at(path, {})
        size = os.fstat(file.fileno()).st_size
        headers = {
            "host": self._http.name,
            "ocp-date": formatdate(usegmt=True),
            "content-type": "application/zip",
            "content-length": str(size),
        }
        headers["authorization"] = self._signature("PUT", target, headers)
        try:
            with self._http.stream("PUT", target, headers, file) as (answer, pieces):
                answer = answer._replace(body=b"".join(pieces))
        except Unreachable as error:
            raise Problem(f"the connection to the server at {self.url} broke ({error})") from None
        if not 200 <= answer.status < 300:
            raise _refusal(self._http.host, "PUT", target, answer)
        return self._json(answer)

    def size(self, *path: str) -> int:
        """Bytes of a file. Raises Refused."""
        return int(self.send("HEAD", self._at(path, {})).headers.get("content-length") or 0)

    def _at(self, path: tuple[str, ...], query: Mapping[str, str]) -> str:
        # The name of the option $filter is no Python name, so callers write filter_.
        options = {("$" + name.strip("_") if name.endswith("_") else name): value for name, value in query.items() if value}
        where = "/".join(quote(segment, safe="") for segment in path)
        return f"{self._path}/{where}?{urlencode({'api-version': API_VERSION, **options})}"

    def _json(self, answer: Answer) -> Found:
        found: Found = self._decoded(answer.body, dict) if answer.body else {}
        return found

    def _decoded(self, body: bytes, kind: Any) -> Any:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise Problem(f"{self.url} does not answer as a Batch service does; is the endpoint right?") from None

    def send(self, method: str, target: str, body: object = None, *, more: Mapping[str, str] | None = None) -> Answer:
        """Send until there is an answer that counts. Raises Refused, Problem."""
        content = None if method not in _BODIES else b"" if body is None else msgspec.json.encode(body)
        deadline, pause = time.monotonic() + PATIENCE_S, 0.2
        reads = method in ("GET", "HEAD")
        while True:
            late = time.monotonic() > deadline
            try:
                answer = self._http.send(method, target, self._headers(method, target, content, more or {}), content)
            except Unreachable as error:
                if not self._answered or not reads or late:
                    raise Problem(f"cannot reach the server at {self.url} ({error}); {_remedy(error)}") from None
            else:
                self._answered = True
                again = answer.status in (_PASSING if reads else (429, 503))
                if 200 <= answer.status < 300:
                    return answer
                if not again or late:
                    raise _refusal(self._http.host, method, target, answer)
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _headers(self, method: str, target: str, content: bytes | None, more: Mapping[str, str]) -> dict[str, str]:
        """What a request says, with its signature. Raises Problem."""
        headers = {"host": self._http.name, "ocp-date": formatdate(usegmt=True), "accept": "application/json", **more}
        if content is not None:
            headers |= {"content-type": _JSON, "content-length": str(len(content))}
        headers["authorization"] = self._signature(method, target, headers)
        return headers

    def _signature(self, method: str, target: str, headers: Mapping[str, str]) -> str:
        raw_path, _, raw_query = target.partition("?")
        try:
            return auth.sign(self.account, self._key, auth.Signed(method, raw_path, raw_query, headers))
        except ValueError:
            raise Problem("the key of the account is not base64; is it all there?") from None


def _refusal(host: str, method: str, target: str, answer: Answer) -> Refused:
    """The server's sentence with what it says of the values that it did not like."""
    try:
        body = msgspec.json.decode(answer.body)
        details = "; ".join(str(value["value"]).split("\n", 1)[0] for value in body.get("values") or ())
        text = str(body["message"]["value"]).split("\n", 1)[0].rstrip(".")
        if body["code"] in ("InvalidUri", "UnsupportedHttpVerb"):
            text, details = f"the server at {host} does not offer {method} {target.partition('?')[0]}", ""
        if body["code"] == "AuthenticationFailed" and "MAC signature" in details:
            text, details = f"the server at {host} does not accept this key", ""
        if details.endswith("The property is not known"):
            from batchyard.cli import properties

            details += properties.meant(details)
        return Refused(str(body["code"]), f"{text}: {details}" if details else text)
    except (ValueError, LookupError, TypeError, AttributeError, msgspec.MsgspecError):
        missing = {404: "it is not there", 412: "it changed meanwhile"}.get(answer.status)
        return Refused(f"HTTP {answer.status}", missing or f"the server at {host} refused {method}")


def _remedy(error: Unreachable) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "name the file of its authority: export SSL_CERT_FILE=FILE; `batchyard ca --pem` prints it on the server's machine"
    return "is it running?"
