"""User numbers of nodes: no two nodes of a machine have the same, whichever servers they are of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batchyard.agent.accounts import claims
from batchyard.agent.accounts.claims import BLOCKS, Claim, Taken, held
from batchyard.agent.places.users import BLOCK, BLOCKS_FROM

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs tasks as other users")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "claims"


@pytest.fixture
def node(tmp_path: Path, directory: Path) -> Iterator[Callable[..., Claim]]:
    """Makes nodes, each a root directory and a claim that is held until the test ends."""
    with contextlib.ExitStack() as stack:

        def make(name: str, wanted: int | None = None) -> Claim:
            (tmp_path / name).mkdir(exist_ok=True)
            return stack.enter_context(held(str(tmp_path / name), wanted, directory))

        yield make


def test_every_node_has_a_range_of_its_own(node: Callable[..., Claim]) -> None:
    bases = [node(f"node{number}").base for number in range(20)]
    assert bases == [BLOCKS_FROM + BLOCK * number for number in range(20)]


def test_a_node_whose_agent_is_away_keeps_its_range(tmp_path: Path, directory: Path, node: Callable[..., Claim]) -> None:
    (tmp_path / "away").mkdir()
    with held(str(tmp_path / "away"), None, directory) as claim:
        pass
    assert node("other").base != claim.base
    assert node("away").base == claim.base


def test_the_range_of_a_root_that_is_gone_is_taken_again_as_late_as_possible(
    tmp_path: Path, directory: Path, node: Callable[..., Claim]
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        with held(str(tmp_path / name), None, directory):
            pass
    shutil.rmtree(tmp_path / "first")
    assert node("third").base == BLOCKS_FROM + 2 * BLOCK
    assert not (directory / str(BLOCKS_FROM)).exists(), "the stale claim is gone"
    (directory / "last").write_text(str(BLOCKS_FROM + (BLOCKS - 2) * BLOCK))
    assert node("fourth").base == BLOCKS_FROM + (BLOCKS - 1) * BLOCK
    assert node("fifth").base == BLOCKS_FROM, "from the first again, which nobody has"
    assert node("sixth").base == BLOCKS_FROM + 3 * BLOCK, "the others are somebody's"


def test_another_root_in_the_same_place_is_another_node(tmp_path: Path, node: Callable[..., Claim]) -> None:
    first = node("root")
    os.rename(tmp_path / "root", tmp_path / "moved")
    assert node("root").base != first.base


def test_a_live_agent_keeps_its_range_without_its_root(tmp_path: Path, directory: Path, node: Callable[..., Claim]) -> None:
    claim = node("root")
    shutil.rmtree(tmp_path / "root")
    (directory / "last").unlink()
    assert node("other").base != claim.base


def test_a_range_that_is_asked_for_must_be_free(tmp_path: Path, node: Callable[..., Claim]) -> None:
    assert node("first", 75_500).base == 75_500
    for base in (75_000, 75_500, 76_000, 76_499):
        with pytest.raises(Taken, match=f"those of the node at {tmp_path}/first; choose another --uid-base"):
            node("second", base)
    assert node("second", 76_500).base == 76_500
    assert node("first", 90_000).base == 90_000, "its own may change"
    assert node("third", 75_000).base == 75_000
    assert all(abs(node(f"node{number}").base - base) >= BLOCK for number in range(8) for base in (75_000, 76_500))


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_damaged_claim_is_nobodys(directory: Path, node: Callable[..., Claim], content: bytes) -> None:
    directory.mkdir()
    (directory / str(BLOCKS_FROM)).write_bytes(content)
    (directory / "last").write_bytes(content)
    assert node("first").base == BLOCKS_FROM


def test_where_nothing_can_be_claimed_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with held(str(tmp_path), None, tmp_path / "file" / "claims") as claim:
        assert claim.base >= BLOCKS_FROM
        assert "Another node of this machine may have the same users" in (claim.obstacle or "")


SCRIPT = """
import os, sys
from pathlib import Path
from batchyard.agent.accounts.claims import held
root, directory = sys.argv[1:]
os.mkdir(root)
with held(root, None, Path(directory)) as claim:
    print(claim.base, flush=True)
    sys.stdin.read()
"""


def test_many_processes_at_once_and_one_that_is_killed(tmp_path: Path, directory: Path, node: Callable[..., Claim]) -> None:
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", SCRIPT, f"{tmp_path}/{number}", str(directory)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(8)
        ]
        bases = [int(process.stdout.readline()) for process in processes if process.stdout]
        assert len(set(bases)) == 8
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait()
        shutil.rmtree(tmp_path / "0")
        assert node("later").base not in bases
        assert not (directory / str(bases[0])).exists()
        for process in processes:
            process.kill()


async def test_agents_of_two_servers_give_their_tasks_different_users(tmp_path: Path) -> None:
    """What every agent does that is told no range: the machine's own directory of claims."""
    bases = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with held(str(tmp_path / name)) as claim:
            bases.append(claim.base)
            assert claim.obstacle is None
    assert len(set(bases)) == 2
    await asyncio.to_thread(lambda: [(claims.DIRECTORY / str(base)).unlink() for base in bases])
