"""Blobs and queues are linearizable under sixteen clients and kills: no mix is read, no acknowledged write is lost, no message is given
twice within its time.

`make histories` goes on for longer; what a client does is drawn by `BATCHYARD_HISTORIES_SEED`, and when it does it is not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient
from tests.conftest import Server, wait_for
from tests.histories import blob_storm, queue_storm
from tests.histories.clients import CLIENTS, Caller, Place, Storm

ROUNDS = int(os.environ.get("BATCHYARD_HISTORIES", "40"))
"""What each client does."""
KILLS = max(1, ROUNDS // 100)
SEED = int(os.environ.get("BATCHYARD_HISTORIES_SEED", "1"))
KILL_AT = [CLIENTS * ROUNDS * (number + 1) // (KILLS + 1) for number in range(KILLS)]


@pytest.fixture(scope="module")
def places() -> Iterator[list[Place]]:
    """One server with a container and queues, whose database ends with it."""
    server = Server(nodes=0)
    prepare(server)
    yield [Place(server)]
    server.stop()


def prepare(server: Server) -> None:
    """Make what clients ask for."""
    BlobServiceClient.from_connection_string(server.storage_connection_string).create_container(blob_storm.BOX)
    for queue in queue_storm.QUEUES:
        QueueServiceClient.from_connection_string(server.storage_connection_string).create_queue(queue)


def test_blobs(places: list[Place]) -> None:
    blobs(places)


def test_queues(places: list[Place]) -> None:
    queues(places)


def blobs(places: list[Place]) -> None:
    """A storm of blobs, checked."""
    blob_storm.check(Storm("blob", places, SEED).run(lambda caller: blob_storm.Client(caller).work(ROUNDS), KILL_AT))


def queues(places: list[Place]) -> None:
    """A storm of messages, of which all are taken out at the end, checked."""

    def work(caller: Caller) -> list[queue_storm.Seen]:
        client = queue_storm.Client(caller)
        client.work(ROUNDS)
        return client.let_go()

    seen = Storm("queue", places, SEED).run(work, KILL_AT)
    last = queue_storm.Client(Caller(CLIENTS, SEED, "queue", places[0]))
    for queue in queue_storm.QUEUES:
        wait_for(lambda queue=queue: last.drain(queue), f"{queue} to be empty")
        last.drain(queue)
    queue_storm.check([*seen, *last.let_go()])
