"""What the catalogues ask often finds its rows by an index in PostgreSQL too: a page costs its own rows, however many there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

import postgres
from batchyard import drivers
from batchyard.blobs.queues.schema import SCHEMA as QUEUES
from batchyard.blobs.store.schema import SCHEMA as BLOBS
from batchyard.drivers.base import Use
from batchyard.drivers.migrations import Chain
from batchyard.drivers.postgres import connect
from batchyard.drivers.postgres_words import locate

_NAMES = "SELECT id FROM blobs WHERE container = 1 AND name >= 'n5' AND snapshot = '~' ORDER BY name, snapshot LIMIT 16"
_SNAPSHOTS = "SELECT id FROM blobs WHERE container = 1 AND (name, snapshot) > ('n5', '~') ORDER BY name, snapshot LIMIT 16"
_UNCOMMITTED = "SELECT name, MAX(modified) FROM staged WHERE container = 1 AND name > 'n5' GROUP BY name ORDER BY name LIMIT 16"
_PARTS = "SELECT file FROM segments WHERE blob = 7 AND start < 10 AND start + length > 0 ORDER BY start"
_FILES = "SELECT file FROM segments WHERE file >= 'ab' AND file < 'abg'"
_SEEN = "SELECT seq FROM messages WHERE queue = 1 AND visible <= 5 AND (expires IS NULL OR expires > 5) ORDER BY visible, seq LIMIT 5"
_OVER = "SELECT seq FROM messages WHERE expires <= 5 ORDER BY expires LIMIT 5"


@pytest.fixture
def location() -> Iterator[str]:
    made = postgres.fresh()
    yield made
    drivers.drop(made)


@pytest.mark.parametrize(
    ("chain", "sql", "index"),
    [
        (BLOBS, _NAMES, "blobs_next_container_name_snapshot_key"),
        (BLOBS, _SNAPSHOTS, "blobs_next_container_name_snapshot_key"),
        (BLOBS, _UNCOMMITTED, "staged_container_name_block_key"),
        (BLOBS, _PARTS, "segments_blob_start_key"),
        (BLOBS, _FILES, "segments_file"),
        (QUEUES, _SEEN, "messages_visible"),
        (QUEUES, _OVER, "messages_expires"),
    ],
)
def test_rows_are_found_by_an_index_in_their_order(location: str, chain: Chain, sql: str, index: str) -> None:
    drivers.opened(location, Use(chain)).close()
    with closing(connect(locate(location))) as connection:
        connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN {sql}"))
    assert index in plan, plan
    assert "Sort" not in plan, plan
