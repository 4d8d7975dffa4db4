"""Clusters that tests share or have of their own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from several_servers import Cluster, cluster
from tests.conftest import wait_for


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    """Two servers that tests share and that nobody ends, of which the first has two nodes, and the second none."""
    with cluster() as made:
        made.start(nodes=2)
        made.start(nodes=0)
        wait_for(lambda: made.ask("SELECT count(*) FROM {registry}.server") == [(2,)], "both servers")
        yield made


@pytest.fixture
def fresh() -> Iterator[Callable[..., Cluster]]:
    """Makes clusters of the test's own."""
    with contextlib.ExitStack() as stack:
        yield lambda *options: stack.enter_context(cluster(*options))
