"""Accounts for logging in: real ones as root, a clear refusal otherwise. Every account is removed by the fixture."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchyard.agent.accounts import accounts, logins
from batchyard.agent.accounts.logins import Logins, LoginService
from batchyard.agent.main import run
from batchyard.agent.places.files import Refused
from batchyard.agent.places.layout import Layout
from batchyard.agent.places.users import of_logins
from batchyard.agent.settings import AgentSettings
from batchyard.model.node import NodeUserCreate, NodeUserUpdate
from batchyard.model.sync import FileHead

DAY_US = 86_400_000_000
UIDS = of_logins(70_000)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7 somebody@somewhere"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make accounts")


@pytest.fixture
def root(place: Path) -> Iterator[Path]:
    """A node's root; its accounts are gone afterwards."""
    layout = Layout(str(place / "root"))
    layout.make()
    yield Path(layout.root)
    if os.geteuid() == 0:
        Logins(layout, True, UIDS).remove_all()


@pytest.fixture
def node_logins(root: Path) -> Logins:
    return Logins(Layout(str(root)), True, UIDS)


@pytest.fixture
def name() -> str:
    """A name that nobody has."""
    return f"by_{secrets.token_hex(5)}"


def now() -> int:
    return time.time_ns() // 1000


def shadow(name: str) -> list[str]:
    return next(line for line in Path("/etc/shadow").read_text().splitlines() if line.startswith(name + ":")).split(":")


def mode(path: Path) -> tuple[int, int]:
    seen = path.lstat()
    return seen.st_uid, seen.st_mode & 0o7777


def refused(call: Callable[[], None]) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.code, caught.value.reason or ""


def exists(name: str) -> bool:
    return any(entry.pw_name == name for entry in pwd.getpwall())


@needs_root
def test_an_account_has_its_password_key_home_and_expiry(node_logins: Logins, root: Path, name: str) -> None:
    node_logins.add(NodeUserCreate(name=name, password="se:cret ü", ssh_public_key=KEY), now())
    account = pwd.getpwnam(name)
    assert (account.pw_dir, account.pw_gecos) == (f"{root}/home/{name}", accounts.mark_of(str(root)))
    assert account.pw_uid in UIDS
    assert account.pw_gid in UIDS
    assert os.getgrouplist(name, account.pw_gid) == [account.pw_gid]
    home = root / "home" / name
    assert mode(root / "home") == (0, 0o711)
    assert mode(home) == mode(home / ".ssh") == (account.pw_uid, 0o700)
    assert mode(home / ".ssh/authorized_keys") == (account.pw_uid, 0o600)
    assert (home / ".ssh/authorized_keys").read_text() == KEY + "\n"
    fields = shadow(name)
    assert fields[1].startswith("$")
    assert int(fields[7]) * DAY_US - now() in range(DAY_US - 10_000_000, 2 * DAY_US + 1)


@needs_root
def test_a_node_has_room_for_as_many_accounts_as_it_has_numbers(root: Path, name: str) -> None:
    few = Logins(Layout(str(root)), True, range(79_990, 79_991))
    few.add(NodeUserCreate(name=name), now())
    code, reason = refused(lambda: few.add(NodeUserCreate(name=name + "x"), now()))
    assert (code, "room for 1 " in reason, exists(name + "x")) == ("OperationNotValidOnNode", True, False)


@needs_root
def test_an_update_replaces_everything(node_logins: Logins, root: Path, name: str) -> None:
    node_logins.add(NodeUserCreate(name=name, password="first", ssh_public_key=KEY), now())
    before = shadow(name)[1]
    keys = root / "home" / name / ".ssh/authorized_keys"
    node_logins.update(name, NodeUserUpdate(password="second", expiry_time="2100-01-01T00:00:00Z"), now())
    assert shadow(name)[1] not in (before, "*")
    assert int(shadow(name)[7]) == 47_482  # days from 1970 to 2100
    assert not keys.exists()
    node_logins.update(name, NodeUserUpdate(ssh_public_key=KEY + "2", expiry_time="2100-01-01T00:00:01Z"), now())
    assert (shadow(name)[1], int(shadow(name)[7])) == ("*", 47_483)
    assert keys.read_text() == KEY + "2\n"
    node_logins.update(name, NodeUserUpdate(), now())
    assert not keys.exists()
    assert int(shadow(name)[7]) < 47_482


@needs_root
def test_a_key_never_goes_where_a_user_planted_a_link(node_logins: Logins, root: Path, name: str) -> None:
    node_logins.add(NodeUserCreate(name=name, ssh_public_key=KEY), now())
    home = root / "home" / name
    shutil.rmtree(home / ".ssh")
    (root / "elsewhere").mkdir()
    (home / ".ssh").symlink_to(root / "elsewhere")
    with pytest.raises(OSError, match="ssh"):
        node_logins.update(name, NodeUserUpdate(ssh_public_key=KEY), now())
    assert not list((root / "elsewhere").iterdir())


@needs_root
def test_a_deleted_account_leaves_nothing(node_logins: Logins, root: Path, name: str, alive: Callable[[int], bool]) -> None:
    node_logins.add(NodeUserCreate(name=name), now())
    account = pwd.getpwnam(name)
    process = subprocess.Popen(["sleep", "1000"], user=account.pw_uid, group=account.pw_gid, extra_groups=[], cwd="/")
    node_logins.delete(name)
    assert process.wait(10) == -signal.SIGKILL
    assert not exists(name)
    assert name not in {group.gr_name for group in grp.getgrall()}
    assert not (root / "home" / name).exists()
    assert refused(lambda: node_logins.delete(name))[0] == "NodeUserNotFound"
    node_logins.add(NodeUserCreate(name=name), now())
    assert exists(name)


def fill(home: Path) -> None:
    """Put what a user may into a home: a file that shells read, and more levels than a process may have open files."""
    (home / ".profile").write_text("echo planted\n")
    fd = os.open(home, os.O_RDONLY)
    for _ in range(250):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


@needs_root
@pytest.mark.parametrize("step", ["delete", "expire", "sweep"])
def test_nobody_gets_an_earlier_users_home(node_logins: Logins, root: Path, name: str, step: str) -> None:
    node_logins.add(NodeUserCreate(name=name), now())
    home = root / "home" / name
    fill(home)
    if step == "delete":
        node_logins.delete(name)
    elif step == "expire":
        node_logins.expire(now() + 2 * DAY_US)
    else:
        (root / "volatile/users.json").unlink()
        node_logins.sweep()
    assert not home.exists()
    node_logins.add(NodeUserCreate(name=name), now())
    assert not list(home.iterdir())
    assert mode(home) == (pwd.getpwnam(name).pw_uid, 0o700)


@needs_root
def test_a_home_that_cannot_be_moved_away_is_given_to_nobody(node_logins: Logins, root: Path, name: str) -> None:
    node_logins.add(NodeUserCreate(name=name), now())
    (root / "home" / name / ".profile").write_text("echo planted\n")
    (root / "volatile/removed").write_text("in the way")
    node_logins.delete(name)
    code, reason = refused(lambda: node_logins.add(NodeUserCreate(name=name), now()))
    assert (code, "earlier user" in reason, exists(name)) == ("OperationNotValidOnNode", True, False)
    (root / "volatile/removed").unlink()
    node_logins.add(NodeUserCreate(name=name), now())
    assert not list((root / "home" / name).iterdir())


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks after the accounts all the time."""
    monkeypatch.setattr(logins, "UPKEEP_S", 0.05)


@needs_root
@pytest.mark.usefixtures("often", "node")
async def test_an_agent_deletes_the_homes_that_were_moved_away(server: Any, root: Path, name: str) -> None:
    assert (await ask(server, "add_user", name=name)).error is None
    (root / "home" / name / "file").write_text("")
    assert (await ask(server, "delete_user", name)).error is None
    async with asyncio.timeout(20):
        while any((root / "volatile/removed").iterdir()):
            await asyncio.sleep(0.02)


@pytest.fixture
def foreign(name: str) -> Iterator[str]:
    """An account that no node made."""
    accounts.run("useradd", "--no-create-home", "--comment", "somebody", name)  # which waits for other tests
    yield name
    if exists(name):
        accounts.run("userdel", "--force", name)


@needs_root
def test_accounts_that_no_node_made_are_never_touched(node_logins: Logins, foreign: str) -> None:
    before = pwd.getpwnam(foreign), shadow(foreign)
    assert refused(lambda: node_logins.add(NodeUserCreate(name=foreign, password="x"), now()))[0] == "NodeUserExists"
    assert refused(lambda: node_logins.update(foreign, NodeUserUpdate(password="x"), now()))[0] == "NodeUserNotFound"
    assert refused(lambda: node_logins.delete(foreign))[0] == "NodeUserNotFound"
    node_logins.sweep()
    node_logins.remove_all()
    assert (pwd.getpwnam(foreign), shadow(foreign)) == before


@needs_root
@pytest.mark.parametrize("name_", ["root", "daemon"])
def test_names_of_the_system_are_taken(node_logins: Logins, name_: str) -> None:
    code, reason = refused(lambda: node_logins.add(NodeUserCreate(name=name_), now()))
    assert (code, "the machine has a user" in reason) == ("NodeUserExists", True)


@needs_root
def test_a_groups_name_is_taken_too(node_logins: Logins) -> None:
    only_groups = {group.gr_name for group in grp.getgrall()} - {user.pw_name for user in pwd.getpwall()}
    assert refused(lambda: node_logins.add(NodeUserCreate(name=min(only_groups)), now()))[0] == "NodeUserExists"


@needs_root
def test_other_nodes_accounts_are_theirs(node_logins: Logins, place: Path, name: str) -> None:
    node_logins.add(NodeUserCreate(name=name), now())
    layout = Layout(str(place / "other"))
    layout.make()
    other = Logins(layout, True, UIDS)
    code, reason = refused(lambda: other.add(NodeUserCreate(name=name), now()))
    assert (code, "another node on the same machine" in reason) == ("NodeUserExists", True)
    assert refused(lambda: node_logins.add(NodeUserCreate(name=name), now())) == ("NodeUserExists", "")
    assert refused(lambda: other.delete(name))[0] == "NodeUserNotFound"
    other.sweep()
    other.remove_all()
    assert exists(name)


@needs_root
@pytest.mark.parametrize(
    ("bad", "member"),
    [
        ("", None),
        ("-rf", None),
        ("a" * 21, None),
        ("a b", None),
        ("a:b", None),
        ("a/b", None),
        ("a\n", None),
        ("$(id)", None),
        ("ü", None),
        ("fine", {"password": "x\nno_such_account:y"}),
        ("fine", {"password": "x\0"}),
        ("fine", {"ssh_public_key": "x\0"}),
        ("fine", {"expiry_time": "2026-99-01T00:00:00Z"}),
        ("fine", {"expiry_time": "9999-12-31T23:59:59-23:00"}),
        ("fine", {"expiry_time": "0001-01-01T00:00:00+23:00"}),
    ],
)
def test_what_could_mean_something_else_to_the_tools_is_refused(node_logins: Logins, bad: str, member: dict[str, Any] | None) -> None:
    before = shadow("root")
    code, reason = refused(lambda: node_logins.add(NodeUserCreate(name=bad, **(member or {})), now()))
    assert code == "InvalidPropertyValue"
    assert reason
    assert shadow("root") == before
    assert not exists(bad)


@needs_root
def test_administrators_need_sudo(node_logins: Logins, root: Path, name: str) -> None:
    if shutil.which("sudo") is None:
        code, reason = refused(lambda: node_logins.add(NodeUserCreate(name=name, is_admin=True), now()))
        assert (code, "sudo is not installed" in reason, exists(name)) == ("OperationNotValidOnNode", True, False)
        return
    node_logins.add(NodeUserCreate(name=name, is_admin=True), now())
    uid = pwd.getpwnam(name).pw_uid
    rule = Path("/etc/sudoers.d") / f"{accounts.mark_of(str(root)).replace(' ', '-')}-{uid}"
    assert (rule.read_text(), mode(rule)) == (f"#{uid} ALL=(ALL:ALL) NOPASSWD: ALL\n", (0, 0o440))
    assert subprocess.run(["setpriv", f"--reuid={uid}", "--clear-groups", "sudo", "-n", "id", "-u"], capture_output=True).stdout == b"0\n"
    node_logins.delete(name)
    assert not rule.exists()


@pytest.fixture
def rules(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in the place of sudo's own."""
    folder = place / "sudoers.d"
    folder.mkdir()
    monkeypatch.setattr(accounts, "_SUDOERS", folder)
    return folder


REMOVALS: list[Callable[[Logins, str], object]] = [
    lambda found, _: found.sweep(),
    lambda found, _: found.expire(now()),
    lambda found, _: found.expire(now() + 2 * DAY_US),
    lambda found, name: refused(lambda: found.delete(name)),
    lambda found, _: found.remove_all(),
    lambda found, name: found.add(NodeUserCreate(name=name), now()),
]


@needs_root
@pytest.mark.parametrize("step", REMOVALS)
def test_rights_end_with_an_account_that_somebody_else_removed(
    node_logins: Logins, rules: Path, place: Path, name: str, step: Callable[[Logins, str], object]
) -> None:
    layout = Layout(str(place / "released"))
    layout.make()
    for found, user in ((node_logins, name), (node_logins, name + "x"), (Logins(layout, True, UIDS), name + "y")):
        found.add(NodeUserCreate(name=user, expiry_time="2100-01-01T00:00:00Z"), now())
        accounts.make_admin(next(account for account in accounts.marked() if account.name == user))
    uid = pwd.getpwnam(name + "x").pw_uid
    (rules / "batchyard-operator-1").write_text("")
    for user in (name, name + "y"):  # of this node, and of one that is gone
        accounts.run("userdel", user)
    shutil.rmtree(layout.root)
    step(node_logins, name)
    left = {path.name for path in rules.iterdir()}
    assert {one for one in left if one != f"{accounts.mark_of(str(place / 'root')).replace(' ', '-')}-{uid}"} == {"batchyard-operator-1"}


@needs_root
def test_expired_accounts_go_and_others_stay(node_logins: Logins, name: str) -> None:
    node_logins.add(NodeUserCreate(name=name), now())
    node_logins.add(NodeUserCreate(name=name + "x", expiry_time="2100-01-01T00:00:00Z"), now())
    node_logins.expire(now() + DAY_US - 60_000_000)
    assert exists(name)
    node_logins.expire(now() + DAY_US)
    assert (exists(name), exists(name + "x")) == (False, True)


@needs_root
def test_a_sweep_removes_what_an_earlier_life_of_the_root_left(node_logins: Logins, root: Path, name: str) -> None:
    node_logins.add(NodeUserCreate(name=name), now())
    node_logins.sweep()
    assert exists(name)
    (root / "volatile/users.json").unlink()  # as a reimage does
    node_logins.sweep()
    assert not exists(name)


@needs_root
def test_a_sweep_removes_accounts_whose_numbers_are_another_nodes_now(node_logins: Logins, root: Path, name: str) -> None:
    """After the node's own range was found to be another's."""
    node_logins.add(NodeUserCreate(name=name), now())
    Logins(Layout(str(root)), True, of_logins(95_000)).sweep()
    assert not exists(name)
    assert not (root / "home" / name).exists()


@needs_root
def test_a_sweep_removes_accounts_of_nodes_whose_root_is_gone(place: Path, node_logins: Logins, name: str) -> None:
    layout = Layout(str(place / "released"))
    layout.make()
    Logins(layout, True, UIDS).add(NodeUserCreate(name=name), now())
    node_logins.sweep()
    assert exists(name)
    shutil.rmtree(layout.root)
    node_logins.sweep()
    assert not exists(name)


@pytest.mark.parametrize(
    ("expires", "day"), [(-(10**18), "1970-01-01"), (0, "1970-01-01"), (1, "1970-01-02"), (DAY_US, "1970-01-02"), (10**18, "9999-01-01")]
)
def test_linux_knows_whole_days(expires: int, day: str) -> None:
    assert accounts.expiry_day(expires) == day


def test_due() -> None:
    assert logins.due({"b": 5, "a": 4, "c": 6}, 5) == ["a", "b"]
    assert logins.due({}, 5) == []


async def ask(node: Any, operation: str, path: str = "", **content: Any) -> FileHead:
    head, body = await node.file(operation, path, content=msgspec.Raw(json.dumps(content).encode()))
    assert body == b""
    found: FileHead = head
    return found


async def test_the_server_asks_for_users(node: Any, root: Path, name: str) -> None:
    if os.geteuid() != 0:
        for operation, path, content in (("add_user", "", {"name": name}), ("update_user", name, {}), ("delete_user", name, {})):
            head = await ask(node, operation, path, **content)
            assert (head.error, "root" in (head.reason or "")) == ("OperationNotValidOnNode", True)
        return
    assert (await ask(node, "add_user", name=name, password="x", isAdmin=False)).error is None
    assert exists(name)
    assert (await ask(node, "add_user", name=name)).error == "NodeUserExists"
    assert (await ask(node, "update_user", name, sshPublicKey=KEY)).error is None
    assert (await ask(node, "add_user", name="a b")).reason is not None
    assert (await ask(node, "add_user", nonsense=1)).error == "InvalidRequestBody"
    assert (await ask(node, "delete_user", name)).error is None
    assert (await ask(node, "delete_user", name)).error == "NodeUserNotFound"
    assert not exists(name)


async def test_an_operation_that_the_agent_does_not_know_touches_no_file(node: Any, place: Path) -> None:
    (place / "root/shared/file").write_text("")
    head, _ = await node.file("unheard-of", "shared/file")
    assert head.error == "OperationNotValidOnNode"
    assert (place / "root/shared/file").exists()


@needs_root
async def test_nobody_logs_in_while_the_agent_is_away(server: Any, settings: AgentSettings, root: Path, name: str) -> None:
    agent = asyncio.create_task(run(settings))
    assert (await ask(server, "add_user", name=name, expiryTime="2100-01-01T00:00:00Z")).error is None
    agent.cancel()
    await asyncio.wait({agent})
    assert (exists(name), int(shadow(name)[7])) == (True, 1)
    agent = asyncio.create_task(run(settings))
    await server.until(lambda: server.session == 2)
    assert (await ask(server, "add_user", name=name)).error == "NodeUserExists"  # which comes after the accounts were opened
    assert int(shadow(name)[7]) == 47_482
    agent.cancel()
    await asyncio.wait({agent})


@needs_root
async def test_an_agent_that_is_told_to_stop_again_leaves_nothing_out(server: Any, settings: AgentSettings, root: Path, name: str) -> None:
    agent = asyncio.create_task(run(settings))
    assert (await ask(server, "add_user", name=name, expiryTime="2100-01-01T00:00:00Z")).error is None
    os.kill(os.getpid(), signal.SIGTERM)
    await server.until(lambda: server.syncs[-1].leaving)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(agent, 20)
    assert int(shadow(name)[7]) == 1


@needs_root
async def test_an_agent_whose_node_is_gone_takes_its_accounts_along(server: Any, settings: AgentSettings, root: Path, name: str) -> None:
    agent = asyncio.create_task(run(settings))
    assert (await ask(server, "add_user", name=name)).error is None
    server.gone = True
    server.order("wakes", "true")
    await asyncio.wait_for(agent, 20)
    assert not exists(name)


@pytest.fixture
def tool(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script in the place of every tool of the system."""

    def put(script: str) -> None:
        folder = place / "tools"
        folder.mkdir(exist_ok=True)
        for name in accounts.TOOLS:
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setattr(accounts, "PATH", f"{folder}:{accounts.PATH}")

    return put


def test_a_tool_that_hangs_is_refused_like_one_that_fails(tool: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    tool("exec sleep 1000")
    monkeypatch.setattr(accounts, "_LONGEST_S", 0.2)
    code, reason = refused(lambda: accounts.run("usermod", "nobody"))
    assert code == "OperationNotValidOnNode"
    assert "usermod" in reason


@needs_root
async def test_whatever_goes_wrong_with_accounts_the_upkeep_goes_on(root: Path) -> None:
    went_on, loop = asyncio.Event(), asyncio.get_running_loop()

    class Odd(Logins):
        def sweep(self) -> None:
            raise ValueError("anything")

        def expire(self, now: int) -> None:
            loop.call_soon_threadsafe(went_on.set)

    async def fails() -> None:
        raise RecursionError

    with ThreadPoolExecutor(1) as threads:
        upkeep = asyncio.create_task(LoginService(Odd(Layout(str(root)), True, UIDS), threads, fails).upkeep())
        await asyncio.wait_for(went_on.wait(), 20)
        upkeep.cancel()


@needs_root
async def test_an_agent_that_ends_stops_its_tasks_before_it_waits_for_the_password_file(
    server: Any,
    settings: AgentSettings,
    root: Path,
    name: str,
    pipe: Any,
    alive: Callable[[int], bool],
    tool: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    place: Path,
) -> None:
    agent = asyncio.create_task(run(settings))
    assert (await ask(server, "add_user", name=name)).error is None
    server.order("task", f"sh -c 'echo $$ >{pipe}; exec sleep 1000'")
    process = int(await pipe.line())
    monkeypatch.setattr(logins, "END_S", 0.5)
    tool(f"kill -0 {process} 2>/dev/null && echo early >>{place}/early; echo cannot lock /etc/passwd >&2; exit 1")
    agent.cancel()
    await asyncio.wait({agent}, timeout=20)
    assert agent.done()
    assert not alive(process)
    assert not (place / "early").exists()
