"""An account that is open, as `metrics` sees it."""

from __future__ import annotations

from dataclasses import dataclass, field

from batchyard.engine.loops import Loops
from batchyard.store.db import Database
from batchyard.store.overview import PoolNodes, PoolWork


@dataclass
class Open:
    """What of an account is measured; `work` and `nodes` are what its database said for one scrape."""

    name: str
    db: Database
    loops: Loops
    leads: bool
    work: list[PoolWork] = field(default_factory=list)
    nodes: list[PoolNodes] = field(default_factory=list)
