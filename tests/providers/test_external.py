"""Places for nodes whose agents somebody else starts."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from provider_suite import LIMIT, order

from batchyard.providers.base import NoCapacity, Seen
from batchyard.providers.external import ExternalProvider


@pytest.fixture
def provider(tmp_path: Path) -> ExternalProvider:
    return ExternalProvider(tmp_path / "nodes", LIMIT)


async def test_a_place_has_a_token_that_only_its_owner_reads(provider: ExternalProvider) -> None:
    wanted = order()
    handle = await provider.launch(wanted)
    token = Path(handle) / "token"
    assert token.read_text() == wanted.token
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert await provider.launch(wanted) == handle
    assert await provider.observe([handle, handle + "x"]) == {handle: Seen.ALIVE, handle + "x": Seen.GONE}
    assert await provider.why(handle) == ""


async def test_there_is_a_limit(provider: ExternalProvider) -> None:
    results = await asyncio.gather(*(provider.launch(order()) for _ in range(LIMIT + 2)), return_exceptions=True)
    assert sum(isinstance(result, NoCapacity) for result in results) == 2
    handles = [result for result in results if isinstance(result, str)]
    await provider.release(handles[:1])
    await provider.launch(order())
    with pytest.raises(NoCapacity):
        await provider.launch(order())


async def test_what_was_stopped_comes_back_and_what_was_released_is_gone(provider: ExternalProvider, tmp_path: Path) -> None:
    wanted = order()
    handle = await provider.launch(wanted)
    for _ in range(2):
        await provider.stop([handle])
        assert await provider.observe([handle]) == {handle: Seen.GONE}
    assert await provider.launch(wanted) == handle
    assert await provider.observe([handle]) == {handle: Seen.ALIVE}
    await provider.stop_all()
    later = ExternalProvider(tmp_path / "nodes", LIMIT)
    assert await later.observe([handle]) == {handle: Seen.ALIVE}
    for _ in range(2):
        await later.release([handle])
        assert not Path(handle).exists()
    await later.stop([handle])


async def test_places_that_nobody_noted_are_given_up(provider: ExternalProvider) -> None:
    kept, lost = order(), order()
    handles = [await provider.launch(kept), await provider.launch(lost)]
    await provider.sweep({kept.node_id})
    assert [Path(handle).exists() for handle in handles] == [True, False]
