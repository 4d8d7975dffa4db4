"""The HTTP server: its listener, its ending, and where others find it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import msgspec
import structlog
import uvicorn
from starlette.types import ASGIApp

from batchyard.api.wire.protocol import BoundedHttp
from batchyard.blobs.edge.request import QUEUE, TABLE
from batchyard.config import Config
from batchyard.model.endpoints import Ways
from batchyard.server import account_file
from batchyard.server.gate import TlsGate
from batchyard.server.refusals import Refused
from batchyard.server.tls import Tls

log = structlog.get_logger()

ANNOUNCEMENT = "server.json"
_GRACE_S = 1


class HttpServer(uvicorn.Server):
    """Leaves signals to us: uvicorn would raise them again behind itself and end the process before the nodes are ended."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    tls: Tls | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections, by TLS through a gate."""
        if self.tls is None:
            await super().startup(sockets)
            return
        loop = asyncio.get_running_loop()

        made = cast("type[BoundedHttp]", self.config.http_protocol_class)

        def http() -> asyncio.Protocol:
            return made(config=self.config, server_state=self.server_state, app_state={}, _loop=loop)

        gates = [TlsGate(listener, self.tls, http, self.server_state.connections) for listener in sockets or ()]
        self.servers = cast("list[asyncio.Server]", gates)  # uvicorn closes them and waits for that
        self.started = True


def http_server(app: ASGIApp, proxies: Sequence[str], tls: Tls | None, connection: type[BoundedHttp] = BoundedHttp) -> HttpServer:
    server = HttpServer(
        uvicorn.Config(
            app,
            http=connection,
            ws="none",
            lifespan="off",
            access_log=False,
            server_header=False,
            log_config=None,
            timeout_graceful_shutdown=_GRACE_S,
            timeout_keep_alive=75,
            backlog=2048,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=list(proxies),
        )
    )
    server.tls = tls
    return server


async def beside(app: ASGIApp, listener: socket.socket, tls: Tls | None) -> None:
    """Serve another application on a listener of its own, until cancelled."""
    server = http_server(app, (), tls)
    try:
        await server.serve(sockets=[listener])
    finally:
        listener.close()


async def answer(server: HttpServer, listeners: Sequence[socket.socket], background: Sequence[Coroutine[None, None, None]]) -> None:
    """Serve until told to end, with the background work beside it."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(work) for work in background]
        await server.serve(sockets=[*listeners])
        for work in running:
            work.cancel()


def _listen_again(host: str, port: int) -> socket.socket | None:
    """A port that this server had before; None when it is taken by now."""
    try:
        return listen(host, port)
    except OSError:
        log.info("the port of the server's last life is taken", port=port)
        return None


def bind(config: Config) -> socket.socket:
    """The listener of a server. Raises OSError."""
    listener = _listen_again(config.host, config.former_port) if config.port == 0 and config.former_port else None
    return listener or listen(config.host, config.port)


def bind_services(config: Config) -> dict[str, socket.socket]:
    """The listeners of single storage services, by service. Raises OSError."""
    ports = {QUEUE: config.queue_port, TABLE: config.table_port}
    return {service: listen(config.host, port) for service, port in ports.items() if port is not None}


def ways(config: Config, listeners: Mapping[str, socket.socket], public: str, tls: Tls | None) -> Ways:
    """How other machines reach the storage of a server that has this URL for them."""
    return Ways(public, config.domain, **{service: urls(config, listener, tls)[1] for service, listener in listeners.items()})


def urls(config: Config, listener: socket.socket, tls: Tls | None) -> tuple[str, str]:
    """The server's URL for this machine, and that for others. Raises Refused when nodes with networks of their own could trust neither."""
    bound, port = listener.getsockname()[:2]
    scheme = "http" if tls is None else "https"
    here = config.gateway or {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bound, bound)
    known = tls.names if tls is not None else []
    if config.gateway and known and here not in known:
        raise Refused(f"nodes reach the server at {here}, and its certificate is not for that; say --tls auto, or --network host")
    if known and here not in known:
        # A given certificate may be for a name only.
        here = next((name for name in ("localhost", *config.names, *known) if name in known and "*" not in name), here)
    public = next((name for name in config.names if "*" not in name), here)
    return url(scheme, here, port), url(scheme, public, port)


def url(scheme: str, host: str, port: int) -> str:
    """The URL of a host and a port."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A listener. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


async def announce(
    server: uvicorn.Server, config: Config, url: str, ways: Ways, others: Callable[[], Sequence[str]], changed: asyncio.Event
) -> None:
    """Tell other processes where the server is, for them and for other machines, once it answers; and where others are, as that changes."""
    while not server.started:
        await asyncio.sleep(0.005)
    pid = os.getpid()
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    found = {
        "pid": pid,
        "started": started,
        "url": url,
        "public": ways.url,
        "domain": ways.domain,
        "queue": ways.queue,
        "table": ways.table,
    }
    found["authority"] = str(config.tls_authority) if config.tls_authority else None
    log.info("server ready", url=url, pid=pid)
    while True:
        changed.clear()
        account_file.write_private(config.directory / ANNOUNCEMENT, msgspec.json.encode({**found, "others": others()}))
        await changed.wait()
