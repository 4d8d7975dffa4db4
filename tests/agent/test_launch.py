"""Remote starts of multi-instance tasks on the agent's side: the words of a starter, the interpreter, an answer that comes in pieces."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from batchyard.agent.run import doors, launch
from batchyard.agent.talk.link import Broken, Link


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["n1", "orted -x"], ("n1", "orted -x")),
        (["-x", "10.0.0.4", "/bin/proxy", "--port", "n:1"], ("10.0.0.4", "/bin/proxy --port n:1")),
        (["-q", "-o", "StrictHostKeyChecking=no", "-p", "22", "me@n1", "true"], ("n1", "true")),
        (["-oBatchMode=yes", "-l", "me", "n1", "-v"], ("n1", "-v")),
    ],
)
def test_the_words_are_those_of_ssh(words: list[str], found: tuple[str, str]) -> None:
    assert launch.parse(words) == found


@pytest.mark.parametrize("words", [[], ["n1"], ["-x", "n1"], ["-o", "n1", "true"]])
def test_words_without_host_or_command_are_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match="usage"):
        launch.parse(words)


def test_a_program_that_others_may_not_reach_is_no_interpreter() -> None:
    assert doors.open_to_all("/bin/sh")
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        program = Path(place, "python")
        program.touch()
        program.chmod(0o755)
        assert not doors.open_to_all(str(program)), "the directory is its owner's alone"
        Path(place).chmod(0o711)
        assert doors.open_to_all(str(program))
        program.chmod(0o700)
        assert not doors.open_to_all(str(program))
        assert not doors.open_to_all(f"{place}/nothing")


@asynccontextmanager
async def answering(*pieces: bytes) -> AsyncIterator[Link]:
    """A server that sends these pieces and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, Link(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "token", None) as link:
        yield link


async def drawn(link: Link) -> bytes:
    return b"".join([piece async for piece in link.draw("/agent/starts", b"{}", 10)])


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_an_answer_is_drawn_in_pieces() -> None:
    async with answering(CHUNKED, b"3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n") as link:
        assert await drawn(link) == b"onetwo"


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ([CHUNKED, b"3\r\none\r\n"], "closed the connection"),
        ([b"HTTP/1.1 409 Conflict\r\ncontent-length: 6\r\n\r\n", b"not so"], "not so"),
        ([b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"], "the server answered 503"),
        ([b"what is this\r\n\r\n"], "no HTTP answer"),
        ([], "closed the connection"),
    ],
)
async def test_what_is_no_whole_answer_says_why(pieces: list[bytes], why: str) -> None:
    async with answering(*pieces) as link:
        with pytest.raises(Broken, match=why):
            await drawn(link)
