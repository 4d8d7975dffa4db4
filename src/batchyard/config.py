"""Settings of a server; the command line fills them in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_PORT = 8777


@dataclass(frozen=True)
class Config:
    """What one server is told at its start."""

    directory: Path
    """All state of the server lives here."""
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    """0 takes a free one."""
    max_nodes: int = 8
    """Local nodes that may exist at once."""
    test_clock: bool = False
    """Let clients move the clock; for tests only."""
    insecure: bool = False
    """Listen on another address than loopback without TLS."""
    node_silence_s: float = 60.0
    """How long a node may say nothing before its tasks run elsewhere."""
    chaos: bool = False
    """Let clients disturb nodes on demand; for trials only."""
    probes: Path | None = None
    """Directory of the operator's programs that say whether a local node is fit for tasks."""
    external_nodes: bool = False
    """Nodes are made of agents that somebody else starts, and not of agents on this machine."""
    node_join_s: float = 600.0
    """How long a launched node's agent may take to its first word, before the node is stopped and launched again."""
