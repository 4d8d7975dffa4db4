"""`batchyard chaos`: disturb a node on purpose, to see what becomes of its tasks. Over the HTTP API, like the daily commands."""

from __future__ import annotations

from batchyard.cli.client import Client
from batchyard.cli.problem import Usage

_SAID = {
    "preempt": "will be taken away",
    "kill": "lost its agent",
    "slow": "starts its tasks late from now on",
    "disk-full": "takes its disk to be full from now on",
    "heal": "is left alone again",
}
_TAKES_SECONDS = ("preempt", "slow")


def chaos(batch: Client, *, kind: str, node: str, seconds: float | None) -> None:
    """Disturb a node, if the server was started with --chaos."""
    if kind == "slow" and seconds is None:
        raise Usage("say by how much every start is to be late: --seconds N")
    if seconds is not None and kind not in _TAKES_SECONDS:
        raise Usage(f"{kind} takes no --seconds")
    body = {"kind": kind} | ({} if seconds is None else {"seconds": seconds})
    found = batch.post("batchyard", "chaos", "nodes", node, body=body)
    print(f"{found['nodeId']} of {found['poolId']} {_SAID[kind]}")
