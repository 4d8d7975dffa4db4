"""Where an attempt of a multi-instance task asks for commands on the nodes of other instances: a socket that only its user may open.

Each attempt has a directory of its own below the system's temporary one, which belongs to the agent: in it the socket and the program that
speaks to it (`launch`), of which the environment tells starters of MPI. It is there for as long as the attempt's command may run; what
was asked for through it ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from glob import escape, glob
from pathlib import Path

import msgspec
import structlog

from batchyard.agent.places.users import User
from batchyard.agent.run import launch
from batchyard.agent.talk.link import Link, Refusal
from batchyard.agent.talk.pace import Pause
from batchyard.model import frames
from batchyard.model.frames import Exited, Frames
from batchyard.model.sync import STARTS_PATH, RemoteStart

log = structlog.get_logger()

AT_ONCE = 256
"""Commands that one attempt may have on other nodes: as many as a starter begins without waiting for any."""
LARGEST = 150_000
"""Bytes of a question."""
_QUIET_S = 60.0
"""After so long without a word, not even that the command still runs, the server is gone."""
_NOT_STARTED = 255
_EMPTY = 10
"""So many answers that end without the command's exit are an answer too."""
_PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3")


class _Asked(msgspec.Struct):
    host: str
    command: str


class Doors:
    """Makes doors; `tag` tells the node from others of the machine. What an agent that was killed left is removed."""

    def __init__(self, tag: str, link: Link) -> None:
        self._prefix, self._link = f"batchyard-gang-{tag}-", link
        self._python = next(filter(open_to_all, (os.path.realpath(sys.executable), *_PYTHONS)), None)
        for left in glob(escape(f"{tempfile.gettempdir()}/{self._prefix}") + "*"):
            if os.lstat(left).st_uid == os.geteuid():
                shutil.rmtree(left, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def open(self, attempt: str, user: User) -> AsyncIterator[dict[str, str]]:
        """The variables that tell an attempt's programs of its door, while that is open; none where the door cannot be made."""
        asking: set[asyncio.Task[None]] = set()

        def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(asking) >= AT_ONCE:
                return writer.transport.abort()
            task = asyncio.ensure_future(self._serve(attempt, reader, writer))
            asking.add(task)
            task.add_done_callback(asking.discard)

        home = tempfile.mkdtemp(prefix=self._prefix)
        server = None
        try:
            os.chmod(home, 0o711)
            server = await asyncio.start_unix_server(ask, f"{home}/socket", limit=LARGEST)
            os.chmod(f"{home}/socket", 0o600)
            if user.uid >= 0:
                os.chown(f"{home}/socket", user.uid, user.group)
            yield self._variables(home)
        finally:
            if server is not None:
                server.close()
            for task in asking:
                task.cancel()
            shutil.rmtree(home, ignore_errors=True)

    def _variables(self, home: str) -> dict[str, str]:
        program = f"{home}/launch"
        if self._python is None:
            log.warning("no remote starts", reason="there is no Python that users of tasks may run")
            return {}
        with open(program, "x", encoding="utf-8") as file:
            file.write(f"#!{self._python} -IS\n" + Path(launch.__file__).read_text("utf-8"))
        os.chmod(program, 0o755)
        return {"BATCHYARD_LAUNCH_SOCKET": f"{home}/socket", **starters(program)}

    async def _serve(self, attempt: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one question with frames, until the command has ended or whoever asked hangs up."""
        gone: asyncio.Task[bytes] | None = None
        try:
            asked = msgspec.json.decode(await reader.readline(), type=_Asked)
            gone = asyncio.ensure_future(reader.read(1))
            wanted = RemoteStart(attempt=attempt, host=asked.host, command=asked.command, name=secrets.token_hex(8))
            passing = asyncio.ensure_future(self._pass_on(wanted, writer))
            try:
                await asyncio.wait((gone, passing), return_when=asyncio.FIRST_COMPLETED)
            finally:
                passing.cancel()
                await asyncio.wait({passing})
        except (OSError, ValueError, msgspec.DecodeError) as error:
            log.warning("question of a task not understood", attempt=attempt, reason=str(error))
        finally:
            if gone is not None:
                gone.cancel()
            writer.close()

    async def _pass_on(self, wanted: RemoteStart, writer: asyncio.StreamWriter) -> None:
        """Write the frames of a start up to its exit. The command goes on when the line breaks, which is made anew then."""
        pause, begun, empty = Pause(), False, 0
        while empty < _EMPTY:
            whole = Frames()
            try:
                async with contextlib.aclosing(self._link.draw(STARTS_PATH, msgspec.json.encode(wanted), _QUIET_S)) as pieces:
                    async for piece in pieces:
                        begun = True
                        for kind, data in whole.feed(piece):
                            writer.write(frames.frame(kind, data))
                            await writer.drain()
                            if kind == frames.EXIT:
                                return
                empty += 1
            except (OSError, ValueError) as error:
                if not begun or isinstance(error, Refusal):
                    text = f"nothing runs on {wanted.host}: {error}" if str(error) else f"{wanted.host} cannot be reached"
                    writer.write(frames.frame(frames.EXIT, msgspec.json.encode(Exited(_NOT_STARTED, text))))
                    return
                log.warning("line of a remote start broken", host=wanted.host, reason=str(error))
            await pause.next()
        writer.write(frames.frame(frames.EXIT, msgspec.json.encode(Exited(_NOT_STARTED, f"how it ended on {wanted.host} is not known"))))


def starters(program: str) -> dict[str, str]:
    """Variables by which starters of MPI take a program in place of ssh, and may start more ranks than there are hosts, and as root."""
    yes = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "PRTE_ALLOW_RUN_AS_ROOT", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM")
    return {
        "OMPI_MCA_plm_rsh_agent": program,
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "PRTE_MCA_plm_ssh_agent": program,
        "PRTE_MCA_rmaps_default_mapping_policy": "slot:oversubscribe",
        "HYDRA_LAUNCHER": "ssh",
        "HYDRA_LAUNCHER_EXEC": program,
        "I_MPI_HYDRA_BOOTSTRAP": "ssh",
        "I_MPI_HYDRA_BOOTSTRAP_EXEC": program,
        **dict.fromkeys(yes, "1"),
    }


def open_to_all(path: str) -> bool:
    """True for a program that every user may run, as far as permissions say."""
    try:
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
        return all(os.stat(each).st_mode & stat.S_IXOTH for each in _above(path))
    except OSError:
        return False


def _above(path: str) -> Iterator[Path]:
    return iter(Path(path).parents)
