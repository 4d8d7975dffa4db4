"""Listing against a naive model: any names, prefix, delimiter and page size."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batchyard.blobs.base import ALWAYS, Blob, BlobDraft, BlobRef, ContainerRef, ListQuery
from batchyard.blobs.edge import documents
from batchyard.blobs.edge.documents import from_marker, to_marker
from batchyard.blobs.store.listing import after_prefix
from batchyard.blobs.store.local import LocalBlobStore

texts = st.text(st.sampled_from("ab/.-\x01é\ud7ff\ue000\U0010ffff"), max_size=4)
any_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)


@pytest.fixture
def shared(store: LocalBlobStore) -> LocalBlobStore:
    """One store for all examples."""
    return store


def model(names: set[str], prefix: str, delimiter: str) -> list[str]:
    """What the whole listing is, the slow and obvious way; prefixes are marked."""
    found = set()
    for name in names:
        if name.startswith(prefix):
            rest = name[len(prefix) :]
            cut = rest.find(delimiter) if delimiter else -1
            found.add((prefix + rest[: cut + len(delimiter)], "prefix") if cut >= 0 else (name, "blob"))
    return [f"{kind}:{name}" for name, kind in sorted(found)]


def pages(store: LocalBlobStore, ref: ContainerRef, prefix: str, delimiter: str, limit: int) -> Iterator[list[str]]:
    start: str | None = ""
    while start is not None:
        page = store.list_blobs(ref, ListQuery(prefix, delimiter, from_marker(to_marker(start)), limit))
        yield [f"blob:{e.name}" if isinstance(e, Blob) else f"prefix:{e}" for e in page.entries]
        start = page.next


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(texts.filter(bool), max_size=12), texts, st.sampled_from(["", "/", "-", "a/", "\U0010ffff"]), st.integers(1, 4))
@example({"a\U0010ffff", "a\U0010ffffb", "b"}, "a", "\U0010ffff", 1)
def test_pages_together_are_the_listing(shared: LocalBlobStore, names: set[str], prefix: str, delimiter: str, limit: int) -> None:
    ref = ContainerRef("account", "box")
    shared.create_container(ref, {}, 1)
    try:
        for name in names:
            shared.put(BlobRef(ref.account, ref.container, name), BlobDraft(), ALWAYS).commit(1)
        found = list(pages(shared, ref, prefix, delimiter, limit))
        assert [entry for page in found for entry in page] == model(names, prefix, delimiter)
        assert all(len(page) == limit for page in found[:-1])
    finally:
        shared.delete_container(ref, ALWAYS)


@given(any_text, any_text)
def test_after_prefix_is_the_least_text_above_all_that_start_so(prefix: str, rest: str) -> None:
    end = after_prefix(prefix)
    if end is None:
        assert prefix.strip("\U0010ffff") == ""
    else:
        assert prefix + rest < end
        end.encode()


@pytest.mark.sqlite
def test_a_page_reads_only_its_own_rows(shared: LocalBlobStore) -> None:
    ref = ContainerRef("account", "big")
    shared.create_container(ref, {}, 1)
    container = shared._catalogue.write(lambda tx: tx.execute("SELECT id FROM containers WHERE name = 'big'").fetchone()[0])
    rows = [(container, f"{n // 1000:03d}/{n:06d}") for n in range(100_000)]
    columns = "container, name, snapshot, kind, length, etag, modified, created, headers, metadata, block_count"
    sql = f"INSERT INTO blobs ({columns}) VALUES (?, ?, '~', 'BlockBlob', 0, '0x1', 1, 1, '{{}}', '{{}}', 0)"
    shared._catalogue.write(lambda tx: tx.executemany(sql, rows).rowcount)
    queries = [ListQuery(limit=10), ListQuery(start="050/050500", limit=10), ListQuery(delimiter="/", start="050/", limit=10)]
    for query in [*queries, ListQuery(prefix="099/", limit=10)]:
        assert steps(shared, ref, query) < 100
    assert len(shared.list_blobs(ref, ListQuery(delimiter="/")).entries) == 100


def steps(store: LocalBlobStore, ref: ContainerRef, query: ListQuery) -> int:
    """Hundreds of SQLite instructions that the page took: a count, so the machine's speed does not matter."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    with store._catalogue.reading() as connection:
        connection.set_progress_handler(tick, 100)
    try:
        assert len(store.list_blobs(ref, query).entries) == query.limit
    finally:
        with store._catalogue.reading() as connection:
            connection.set_progress_handler(None, 0)
    assert count > 0
    return count


@given(st.text(st.characters(), max_size=20))
def test_what_xml_says_is_what_was_meant_but_for_what_it_cannot_say(text: str) -> None:
    sayable = "".join(c for c in text if c in "\t\n\r" or (c >= " " and c not in "\ufffe\uffff" and not "\ud800" <= c <= "\udfff"))
    assert (ElementTree.fromstring(documents.element("a", text)).text or "") == sayable
