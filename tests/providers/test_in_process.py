"""The suite, with machines that exist in memory only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

import pytest
from in_process import STAGES, Engine, InProcess
from provider_suite import LIMIT, ProviderSuite

from batchyard.providers.base import NodeOrder, NodeProvider


@pytest.fixture
def provider() -> InProcess:
    return InProcess(Engine(LIMIT))


def engine(provider: NodeProvider) -> Engine:
    assert isinstance(provider, InProcess)
    return provider.engine


class TestInProcess(ProviderSuite):
    """The suite for an engine elsewhere."""

    stages = STAGES
    middles = ("made", "booted")

    def again(self, provider: NodeProvider) -> NodeProvider:
        return InProcess(engine(provider))

    def kill(self, provider: NodeProvider, handle: str) -> None:
        engine(provider).machines[handle].runs = False

    def machines(self, provider: NodeProvider) -> int:
        return sum(machine.runs for machine in engine(provider).machines.values())

    def remains(self, provider: NodeProvider) -> Sequence[str]:
        return list(engine(provider).machines)

    @contextlib.contextmanager
    def failing(self, provider: NodeProvider, stage: str) -> Iterator[None]:
        engine(provider).fails_at = stage
        yield
        engine(provider).fails_at = None

    @contextlib.contextmanager
    def slow(self, provider: NodeProvider, node_id: str) -> Iterator[asyncio.Event]:
        gate = engine(provider).slow[node_id] = asyncio.Event()
        yield gate
        del engine(provider).slow[node_id]

    async def break_off(self, provider: NodeProvider, wanted: NodeOrder, middle: str) -> None:
        if middle == "booted":
            await provider.launch(wanted)  # and its answer is lost
            return
        with self.slow(provider, wanted.node_id):
            launching = asyncio.ensure_future(provider.launch(wanted))
            await asyncio.sleep(0)
            launching.cancel()
            await asyncio.wait({launching})

    def keep(self, handle: str, provider: NodeProvider) -> None:
        engine(provider).machines[handle].files.add("kept")

    def keeps(self, handle: str, provider: NodeProvider) -> bool:
        return "kept" in engine(provider).machines[handle].files
