"""A small synchronous client of the public HTTP API: signed requests, pages, errors as Problems.

Reads are tried again while a server that answered before is away (it restarts, the network stutters); writes are sent
once, unless the server says that it is busy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from batchyard.cli.problem import Problem

if TYPE_CHECKING:
    import httpx

API_VERSION = "2025-06-01"
PATIENCE_S = 30.0
"""How long a server that answered before may be away, in seconds."""
CHUNK = 1 << 20
"""Bytes of a file that are read at a time."""
_JSON = "application/json; odata=minimalmetadata"
_PASSING = (429, 500, 502, 503, 504)

Found = dict[str, Any]


class Refused(Problem):
    """An error answer of the server; `error` is its code, as in JobNotFound."""

    def __init__(self, error: str, text: str) -> None:
        super().__init__(f"{text.rstrip('.')} ({error})")
        self.error = error


class Client:
    """A server as one account sees it."""

    def __init__(self, url: str, account: str, key: str, storage: str | None = None) -> None:
        import httpx

        self.url, self.account, self.storage = url, account, storage
        self._key = key
        encrypted = not url.startswith("http:")  # loading certificates that nobody asks for takes a while
        self._http = httpx.Client(timeout=httpx.Timeout(60.0, connect=10.0), verify=encrypted, follow_redirects=False)
        self._answered = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, *path: str, **query: str) -> Found:
        """A resource. Raises Refused."""
        return self._json(self._send("GET", self._at(path, query)))

    def listed(self, *path: str, **query: str) -> Iterator[Found]:
        """All entries of a list, page by page. Raises Refused."""
        page: str | None = self._at(path, query)
        while page:
            body = self._json(self._send("GET", page))
            yield from body.get("value", ())
            page = body.get("odata.nextLink")

    def post(self, *path: str, body: object = None) -> Found:
        """Add something, or act on something. Raises Refused."""
        return self._json(self._send("POST", self._at(path, {}), body))

    def delete(self, *path: str) -> None:
        """Delete something. Raises Refused."""
        self._send("DELETE", self._at(path, {}))

    def read(self, job: str, task: str, name: str, offset: int) -> bytes:
        """At most CHUNK bytes of a task's file from `offset` on; none when it has no more yet. Raises Refused."""
        where = self._at(("jobs", job, "tasks", task, "files", name), {})
        try:
            return self._send("GET", where, ranged=f"bytes={offset}-{offset + CHUNK - 1}").content
        except Refused as refused:
            if refused.error == "InvalidRange":
                return b""
            raise

    def _at(self, path: tuple[str, ...], query: dict[str, str]) -> str:
        # The name of the option $filter is no Python name, so callers write filter_.
        options = {("$" + name.strip("_") if name.endswith("_") else name): value for name, value in query.items()}
        where = "/".join(quote(segment, safe="") for segment in path)
        return f"{self.url}/{where}?{urlencode({'api-version': API_VERSION, **options})}"

    def _json(self, answer: httpx.Response) -> Found:
        try:
            found: Found = answer.json() if answer.content else {}
        except ValueError:
            raise Problem(f"{self.url} does not answer as a Batch service does; is the endpoint right?") from None
        return found

    def _send(self, method: str, url: str, body: object = None, *, ranged: str | None = None) -> httpx.Response:
        """Send until there is an answer that counts. Raises Refused, Problem."""
        import httpx

        deadline, pause = time.monotonic() + PATIENCE_S, 0.2
        while True:
            late = time.monotonic() > deadline
            try:
                answer = self._http.send(self._signed(method, url, body, ranged))
            except (httpx.TransportError, httpx.InvalidURL) as error:
                if not self._answered or method != "GET" or late:
                    raise Problem(f"cannot reach the server at {self.url} ({error}); is it running?") from None
            else:
                self._answered = True
                again = answer.status_code in (_PASSING if method == "GET" else (429, 503))
                if answer.is_success:
                    return answer
                if not again or late:
                    raise _refusal(answer)
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _signed(self, method: str, url: str, body: object, ranged: str | None) -> httpx.Request:
        """The request with its signature. Raises Problem."""
        from batchyard.api.wire import auth

        headers = {"ocp-date": formatdate(usegmt=True), "accept": "application/json"}
        if ranged:
            headers["ocp-range"] = ranged
        if method == "POST":
            headers["content-type"] = _JSON
        request = self._http.build_request(method, url, headers=headers, json=body) if body is not None else None
        request = request or self._http.build_request(method, url, headers=headers, content=b"" if method == "POST" else None)
        raw_path, _, raw_query = request.url.raw_path.decode("ascii").partition("?")
        sent = {name.lower(): value for name, value in request.headers.items()}
        try:
            request.headers["authorization"] = auth.sign(self.account, self._key, auth.Signed(method, raw_path, raw_query, sent))
        except ValueError:
            raise Problem("the key of the account is not base64; is it all there?") from None
        return request


def _refusal(answer: httpx.Response) -> Refused:
    """The server's sentence with what it says of the values that it did not like."""
    try:
        body = answer.json()
        details = "; ".join(str(value["value"]).split("\n", 1)[0] for value in body.get("values") or ())
        text = str(body["message"]["value"]).split("\n", 1)[0].rstrip(".")
        if body["code"] in ("InvalidUri", "UnsupportedHttpVerb"):
            text, details = f"the server at {answer.url.host} does not offer {answer.request.method} {answer.url.path}", ""
        if body["code"] == "AuthenticationFailed" and "MAC signature" in details:
            text, details = f"the server at {answer.url.host} does not accept this key", ""
        return Refused(str(body["code"]), f"{text}: {details}" if details else text)
    except (ValueError, LookupError, TypeError, AttributeError):
        return Refused(f"HTTP {answer.status_code}", f"the server at {answer.url.host} refused {answer.request.method}")
