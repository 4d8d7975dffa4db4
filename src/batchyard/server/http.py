"""The HTTP server: its listener, its ending, and where others find it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path

import msgspec
import structlog
import uvicorn

from batchyard.api.app import Api
from batchyard.api.wire.protocol import BoundedHttp
from batchyard.config import Config
from batchyard.server import account_file

log = structlog.get_logger()

ANNOUNCEMENT = "server.json"
_GRACE_S = 1


class HttpServer(uvicorn.Server):
    """Leaves signals to us: uvicorn would raise them again behind itself and end the process before the nodes are ended."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def http_server(app: Api, proxies: Sequence[str]) -> HttpServer:
    return HttpServer(
        uvicorn.Config(
            app,
            http=BoundedHttp,
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


async def answer(server: HttpServer, listener: socket.socket, background: Sequence[Coroutine[None, None, None]]) -> None:
    """Serve until told to end, with the background work beside it."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(work) for work in background]
        await server.serve(sockets=[listener])
        for work in running:
            work.cancel()


def _listen_again(host: str, port: int) -> socket.socket | None:
    """A port that this server had before; None when it is taken by now."""
    try:
        return _listen(host, port)
    except OSError:
        log.info("the port of the server's last life is taken", port=port)
        return None


def bind(config: Config) -> tuple[socket.socket, str]:
    """The listener of a server, and the URL that it is known by. Raises OSError."""
    listener = _listen_again(config.host, config.former_port) if config.port == 0 and config.former_port else None
    listener = listener or _listen(config.host, config.port)
    host, port = listener.getsockname()[:2]
    return listener, f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
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


async def announce(server: uvicorn.Server, directory: Path, url: str) -> None:
    """Tell other processes where the server is, once it answers."""
    while not server.started:
        await asyncio.sleep(0.005)
    pid = os.getpid()
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    account_file.write_private(directory / ANNOUNCEMENT, msgspec.json.encode({"pid": pid, "started": started, "url": url}))
    log.info("server ready", url=url, pid=pid)
