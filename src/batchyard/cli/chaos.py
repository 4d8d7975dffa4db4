"""`batchyard chaos`: disturb a node on purpose, to see what becomes of its tasks. Over the HTTP API, like the daily commands."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from batchyard.cli.client import Client
from batchyard.cli.connect import connected
from batchyard.cli.problem import Problem


class Kind(StrEnum):
    """What to do to a node."""

    PREEMPT = "preempt"
    KILL = "kill"
    SLOW = "slow"
    DISK_FULL = "disk-full"
    HEAL = "heal"


_SAID = {
    Kind.PREEMPT: "will be taken away",
    Kind.KILL: "lost its agent",
    Kind.SLOW: "starts its tasks late from now on",
    Kind.DISK_FULL: "takes its disk to be full from now on",
    Kind.HEAL: "is left alone again",
}
_TAKES_SECONDS = (Kind.PREEMPT, Kind.SLOW)


def chaos(
    batch: Client,
    kind: Annotated[Kind, typer.Argument(help="preempt, kill, slow, disk-full, or heal to end slow and disk-full")],
    node: Annotated[str, typer.Argument(metavar="NODE", help="Its id, or as much of it as no other node shares.")],
    seconds: Annotated[
        float | None, typer.Option(min=0, help="preempt: the notice, 30 when none is given; slow: the delay of every start.")
    ] = None,
) -> None:
    """Disturb a node, if the server was started with --chaos."""
    if kind is Kind.SLOW and seconds is None:
        raise Problem("say by how much every start is to be late: --seconds N")
    if seconds is not None and kind not in _TAKES_SECONDS:
        raise Problem(f"{kind} takes no --seconds")
    body = {"kind": kind} | ({} if seconds is None else {"seconds": seconds})
    found = batch.post("batchyard", "chaos", "nodes", node, body=body)
    print(f"{found['nodeId']} of {found['poolId']} {_SAID[kind]}")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(connected(chaos))
