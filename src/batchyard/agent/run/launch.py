"""What mpirun runs in place of ssh: `launch [OPTION …] HOST COMMAND …` has the agent of this node start COMMAND where HOST is.

Runs alone, as a copy that is owned by the agent and as the task's user, on the standard library. Options are ssh's and mean nothing here.
The exit code is the command's, and 255 when it could not be started, as ssh's is. What it says to the agent is a line of JSON, what it
hears are `frames`. It reads no input: starters of MPI send theirs over connections of their own.
"""

from __future__ import annotations

import json
import os
import socket
import sys

_WITH_VALUE = set("bcDEeFIiJLlmOopQRSWw")
"""Options of ssh whose value is the next word."""
_STDOUT, _STDERR, _EXIT = 1, 2, 3
_HEAD = 5


def parse(words: list[str]) -> tuple[str, str]:
    """Host and command; a user in front of the host is the task's in any case. Raises ValueError."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 2 if len(words[at]) == 2 and words[at][1] in _WITH_VALUE else 1
    if at + 1 >= len(words):
        raise ValueError("usage: launch [OPTION …] HOST COMMAND …")
    return words[at].rpartition("@")[2], " ".join(words[at + 1 :])


def connect(path: str) -> socket.socket:
    """The agent's socket, whose path may be longer than the kernel takes. Raises OSError."""
    os.chdir(os.path.dirname(path))
    made = socket.socket(socket.AF_UNIX)
    made.connect(os.path.basename(path))
    return made


def listen(agent: socket.socket) -> int:
    """Write what comes; the exit code. Raises OSError, EOFError."""
    with agent.makefile("rb") as frames:
        while True:
            head = _whole(frames.read(_HEAD), _HEAD)
            size = int.from_bytes(head[1:], "big")
            data = _whole(frames.read(size), size)
            if head[0] == _EXIT:
                told = json.loads(data)
                if told.get("reason"):
                    os.write(2, f"batchyard: {told['reason']}\n".encode())
                return int(told["exitCode"])
            if head[0] in (_STDOUT, _STDERR):
                _write(head[0], data)


def _whole(data: bytes, size: int) -> bytes:
    if len(data) < size:
        raise EOFError("the agent hung up")
    return data


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def main() -> int:
    """Exit code of the command, 255 when it could not be started."""
    try:
        host, command = parse(sys.argv[1:])
        with connect(os.environ["BATCHYARD_LAUNCH_SOCKET"]) as agent:
            agent.sendall(json.dumps({"host": host, "command": command}).encode() + b"\n")
            return listen(agent)
    except KeyError:
        os.write(2, b"batchyard: BATCHYARD_LAUNCH_SOCKET is not set: this is no multi-instance task\n")
    except (ValueError, OSError, EOFError) as error:
        os.write(2, f"batchyard: {error}\n".encode())
    return 255


if __name__ == "__main__":
    sys.exit(main())
