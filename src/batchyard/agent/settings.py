"""How an agent is started, and the words of its command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from batchyard import __version__


@dataclass(slots=True)
class AgentSettings:
    """How an agent is started."""

    server: str
    """Base URL of the server, or those of several with commas between them: one that does not answer is left for the next."""
    root: str | os.PathLike[str]
    """The node's directory; made when missing."""
    token_file: str | os.PathLike[str]
    uid_base: int | None = None
    """First of the 1,000 uids that tasks run as when the agent is root; None takes some that no other node of the machine has."""
    spawners: int | None = None
    """Processes that start tasks; None chooses by cores and slots."""
    wait_s: float = 20.0
    """How long a poll waits, in seconds."""
    control: str = ""
    """Restricts the way of ending everything to `cgroup2`, `freezer` or `session`."""
    ca_file: str | None = None
    """Certificates to trust instead of the usual ones, as PEM."""
    log_file: str | None = None
    """File that the agent's log goes to, for clients who ask for it; whoever starts the agent sends its output there."""
    probes: str | None = None
    """Directory of the operator's programs that say whether the node is fit for tasks."""
    health_s: float = 5.0
    """How often the node is looked at, in seconds."""
    seen_at: str | None = None
    """Another path of the root, the same on all nodes of the machine."""
    chaos: bool = False
    """Obey disturbances on demand."""
    server_file: str | os.PathLike[str] | None = None
    """The server's `server.json`, where that is on this machine: says its URL when it comes back at another address."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog.split()[0]}: {message}; see: {self.prog} --help\n")


def parse(argv: Sequence[str] | None, prog: str) -> AgentSettings:
    """What a command line says; ends the process when that makes no sense."""
    parser = _Parser(prog=prog, allow_abbrev=False, description="Run the tasks of one compute node.")
    parser.add_argument("--version", action="version", version=f"batchyard {__version__}")
    parser.add_argument("--server", required=True, help="base URL of the server; of several, with commas between them")
    parser.add_argument("--server-file", metavar="FILE", help="the server's server.json: says where it is when its address changes")
    parser.add_argument("--root", required=True, help="the node's directory")
    parser.add_argument("--token-file", required=True)
    parser.add_argument("--uid-base", type=int, help="first of the 1,000 users that tasks run as; without it some that no other node has")
    parser.add_argument("--spawners", type=int, help="processes that start tasks")
    parser.add_argument("--wait-s", type=float, default=20.0, help="how long a poll waits, in seconds")
    parser.add_argument("--control", default="", choices=["", "cgroup2", "freezer", "session"])
    parser.add_argument("--ca-file", help="certificates to trust, as PEM")
    parser.add_argument("--log-file", help="where this agent's output goes, so that it can be uploaded when a client asks for it")
    parser.add_argument("--probes", metavar="DIR", help="programs that say by exit code 0 that the node is fit for tasks")
    parser.add_argument("--seen-at", metavar="DIR", help="another path of the root, which all nodes of the machine have, each for its own")
    parser.add_argument("--chaos", action="store_true", help="obey disturbances on demand; for trials only")
    return AgentSettings(**vars(parser.parse_args(argv)))
