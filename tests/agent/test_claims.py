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

from batchyard.agent.accounts import claims, numbers
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


def left_by_tasks(root: Path, uid: int, name: str = "t") -> Path:
    """A file that a task of this user keeps to itself, where tasks have theirs."""
    wd = root / "workitems/j/job-1" / name / "wd"
    wd.mkdir(parents=True)
    (wd / "file").touch(mode=0o600)
    for path in (wd.parent, wd, wd / "file"):
        os.chown(path, uid, uid)
    return wd / "file"


def owner(path: Path) -> tuple[int, int]:
    seen = path.lstat()
    return seen.st_uid, seen.st_gid


@pytest.mark.parametrize("where", ["workitems/j/job-1/t/wd", "startup/wd", "shared/data"])
def test_a_node_of_an_earlier_release_keeps_the_range_that_its_files_are_of(tmp_path: Path, node: Callable[..., Claim], where: str) -> None:
    """Earlier releases claimed nothing: 70,000 and 1,000 for each node that the server had made."""
    (tmp_path / "old" / where).mkdir(parents=True)
    os.chown(tmp_path / "old" / where, 93_405, 93_405)
    assert node("new").base == BLOCKS_FROM
    assert node("old").base == 93_000
    assert owner(tmp_path / "old" / where) == (93_405, 93_405)


def test_a_node_keeps_its_range_when_the_machine_has_forgotten_its_claims(
    tmp_path: Path, directory: Path, node: Callable[..., Claim]
) -> None:
    """A container that is made anew on the volume with the nodes."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        with held(str(tmp_path / name), None, directory) as claim:
            base = claim.base
    shutil.rmtree(directory)
    assert node("second").base == base == BLOCKS_FROM + BLOCK
    assert [node(name).base for name in ("first", "third")] == [BLOCKS_FROM, BLOCKS_FROM + 2 * BLOCK]


def test_a_range_that_cannot_be_claimed_is_the_former_one(tmp_path: Path, directory: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "root").mkdir()
    with held(str(tmp_path / "root"), 123_000, directory):
        pass
    with held(str(tmp_path / "root"), None, tmp_path / "file" / "claims") as claim:
        assert (claim.base, claim.obstacle is not None) == (123_000, True)


def test_nodes_beside_that_have_claimed_nothing_yet_keep_their_range(tmp_path: Path, directory: Path) -> None:
    left_by_tasks(tmp_path / "old/root", BLOCKS_FROM)
    (tmp_path / "new/root").mkdir(parents=True)
    with held(str(tmp_path / "new/root"), None, directory) as new, held(str(tmp_path / "old/root"), None, directory) as old:
        assert (new.base, old.base) == (BLOCKS_FROM + BLOCK, BLOCKS_FROM)


def test_files_go_with_a_node_whose_range_is_anothers(tmp_path: Path, node: Callable[..., Claim]) -> None:
    """Two servers of the earlier release gave their nodes the same numbers."""
    mine, theirs = left_by_tasks(tmp_path / "mine", 71_000), left_by_tasks(tmp_path / "theirs", 71_003)
    (theirs.parent / "link").symlink_to(mine)
    (theirs.parent / "twice").hardlink_to(mine)
    outside = tmp_path / "theirs/fsmounts/volume"
    outside.mkdir(parents=True)
    os.chown(outside, 71_000, 71_000)
    foreign = left_by_tasks(tmp_path / "theirs", 5_000, "named")
    assert node("mine").base == 71_000
    base = node("theirs").base
    assert base != 71_000
    assert owner(mine) == owner(outside) == (71_000, 71_000), "what is another's, or may be, stays as it is"
    assert owner(foreign) == (5_000, 5_000)
    for path in (theirs, theirs.parent, theirs.parent.parent):
        assert owner(path) == (base + 3, base + 3)
        assert path.stat().st_mode & 0o77 == (0 if path == theirs else 0o55)


@pytest.mark.parametrize("after", ["claim", "some", "all"])
def test_files_go_with_the_range_also_after_a_crash_in_between(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    files = [left_by_tasks(tmp_path / "root", 71_000 + number, f"t{number}") for number in range(3)]
    give, left = numbers.beneath.give, [{"claim": 0, "some": 4, "all": 9}[after]]

    class Crash(BaseException):
        """Nothing handles it."""

    def gives(fd: int, uid: int, gid: int) -> None:
        if not left[0]:
            raise Crash
        left[0] -= 1
        give(fd, uid, gid)

    (tmp_path / "other").mkdir()
    with held(str(tmp_path / "other"), 71_000, directory):
        with monkeypatch.context() as patched, contextlib.suppress(Crash):
            patched.setattr(numbers.beneath, "give", gives)
            with held(str(tmp_path / "root"), None, directory):
                pass
        with held(str(tmp_path / "root"), None, directory) as claim:
            assert claim.base != 71_000
            assert [owner(file)[0] for file in files] == [claim.base + number for number in range(3)]


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets the kernel allow these numbers, as in /proc/self/uid_map."""
    monkeypatch.setattr(claims, "MAPS", (str(tmp_path / "uid_map"), "/proc/self/gid_map"))

    def maps(text: str) -> None:
        (tmp_path / "uid_map").write_text(text)

    return maps


def test_where_few_numbers_are_mapped_lower_ranges_are_given_again(
    directory: Path, node: Callable[..., Claim], only: Callable[[str], None]
) -> None:
    only("         0          0      75000\n     75000     200000        999\n")
    directory.mkdir()
    (directory / "last").write_text("199000")
    assert [node(f"node{number}").base for number in range(5)] == [70_000, 71_000, 72_000, 73_000, 74_000]
    assert claims.free_range(directory) is None
    claim = node("one-too-many")
    assert claim.base in range(70_000, 75_000, 1_000)
    assert "Another node of this machine may have the same users: no range" in (claim.obstacle or "")
    only("0 0 75000\n75000 200000 1000\n")
    assert claims.free_range(directory) == node("fits").base == 75_000


def test_a_range_that_is_no_longer_mapped_is_left(tmp_path: Path, directory: Path, only: Callable[[str], None]) -> None:
    (tmp_path / "node").mkdir()
    with held(str(tmp_path / "node"), 300_000, directory):
        pass
    only("0 0 100000")
    with held(str(tmp_path / "node"), None, directory) as claim:
        assert (claim.base, claim.obstacle) == (BLOCKS_FROM, None)


def test_where_none_is_mapped_the_node_says_that_tasks_run_as_root(
    tmp_path: Path, node: Callable[..., Claim], only: Callable[[str], None]
) -> None:
    only("0 0 65536")
    assert node("root").base == BLOCKS_FROM
    script = "import sys; from batchyard.agent.places.users import obstacle; print(obstacle(sys.argv[1], int(sys.argv[2])))"
    for count in (65_536, BLOCKS_FROM + BLOCK - 1):
        said = in_container(count, script, "/", str(BLOCKS_FROM))
        assert said.startswith("Tasks run as root: becoming user 70999 failed")
        assert "the users 70000 to 70999, or the agent others with `--uid-base`" in said
    assert in_container(BLOCKS_FROM + BLOCK, script, "/", str(BLOCKS_FROM)) == "None\n"


def test_where_numbers_go_on_from_is_what_this_kernel_allows(tmp_path: Path) -> None:
    """In a user namespace, as containers have: earlier nodes have used all numbers up to its end."""
    script = """if True:
        import os, sys
        from pathlib import Path
        from batchyard.agent.accounts.claims import free_range, held
        from batchyard.agent.places.users import obstacle
        place = Path(sys.argv[1])
        (place / "claims").mkdir()
        (place / "claims/last").write_text("199000")
        (place / "node").mkdir()
        would = free_range(place / "claims")
        with held(str(place / "node"), None, place / "claims") as claim:
            print(would, claim.base, claim.obstacle, obstacle("/", claim.base))
    """
    assert in_container(200_000, script, str(tmp_path)) == "70000 70000 None None\n"


IN_CONTAINER = """
import ctypes, os, subprocess, sys
if ctypes.CDLL(None, use_errno=True).unshare(0x10000000) != 0:
    sys.exit(77)
print(flush=True)
sys.stdin.readline()
os.setgroups([])
os.setgid(0)
os.setuid(0)
exec(sys.argv.pop(1))
"""


def in_container(count: int, script: str, *arguments: str) -> str:
    """What a script prints where there are the users 0 to `count` - 1 alone."""
    command = [sys.executable, "-c", IN_CONTAINER, script, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if not process.stdout.readline():
            pytest.skip("this machine lets root make no user namespace")
        for kind in ("uid", "gid"):
            Path(f"/proc/{process.pid}/{kind}_map").write_text(f"0 0 {count}")
        return process.communicate("\n")[0]


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
