"""The agent of Batchyard as a distribution of its own.

The modules of the package `batchyard` that it is made of lie in `lib`, so that this distribution and `batchyard` can be installed,
upgraded and removed beside each other.
"""

from __future__ import annotations

import sys
from pathlib import Path

_LIB = Path(__file__).with_name("lib")


def main() -> int:
    """Run an agent from the command line; its exit code."""
    if "batchyard" in sys.modules:
        raise RuntimeError("batchyard is imported already; its own agent is batchyard.agent.main")
    sys.path.insert(0, str(_LIB))
    from batchyard.agent.main import main as run

    return run(prog="batchyard-agent")
