"""Blobs and queues of two servers that share a database are linearizable too, while the servers are killed in turn."""

from __future__ import annotations

from collections.abc import Callable

from several_servers import Cluster
from tests.histories.clients import Place
from tests.histories.test_storms import blobs, prepare, queues


def test_blobs_and_queues_of_two_servers(fresh: Callable[..., Cluster]) -> None:
    pair = fresh()
    places = [Place(pair.start(nodes=0), outlived=True) for _ in range(2)]
    prepare(places[0].server)
    blobs(places)
    queues(places)
