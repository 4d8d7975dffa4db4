"""`batchyard doctor`: what it says of this machine is checked by hand, what it would say of others by words."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import resource
import secrets
import socket
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from batchyard.agent.accounts import accounts as agent_accounts
from batchyard.agent.accounts import claims
from batchyard.agent.places.users import BLOCKS_FROM
from batchyard.cli import daemon
from batchyard.cli.checks import isolation, machine, service, storage
from batchyard.cli.checks.every import CHECKS, findings
from batchyard.cli.checks.finding import Finding, Level, Place, size
from batchyard.cli.doctor import summary

OK, NOTE, PROBLEM = Level.OK, Level.NOTE, Level.PROBLEM


class Server(Protocol):
    """What these tests need of the fixtures `server` and `own_server`."""

    directory: Path
    endpoint: str

    def kill(self) -> None: ...


def batchyard(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def shell(command: str) -> str:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def only(found: Iterable[Finding]) -> Finding:
    [one] = found
    return one


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, "127.0.0.1", 0)


# the command


def test_it_prints_a_table_or_json_and_no_problem_of_a_machine_that_runs_these_tests(tmp_path: Path) -> None:
    shown = batchyard("doctor", "--dir", tmp_path / "state", "--port", "0")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["CHECK", "FINDING", "WHAT", "TO", "DO"]
    assert lines[-1].startswith("Nothing keeps the server from working")
    told = json.loads(batchyard("doctor", "--dir", tmp_path / "state", "--port", "0", "-o", "json").stdout)
    assert {tuple(one) for one in told} == {("level", "check", "finding", "mend")}
    assert [one["check"] for one in told] == [line[6:21].strip() for line in lines[1:-2]]
    assert all(one["mend"] for one in told if one["level"] == "problem")
    assert not (tmp_path / "state").exists(), "it changes nothing"


def test_a_problem_makes_the_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        shown = batchyard("doctor", "--dir", tmp_path, "--port", str(number))
    assert shown.returncode == 1
    [line] = [line for line in shown.stdout.splitlines() if line.startswith("problem")]
    assert f"port {number} of 127.0.0.1 is taken (Address already in use) by {comm()} (process {os.getpid()})" in line
    assert "--port 0 for a free one" in line
    assert shown.stdout.endswith("1 problem to mend before the server works.\n")


def comm() -> str:
    return Path("/proc/self/comm").read_text().strip()


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(place: Place) -> None:
    def breaks(_: Place) -> Iterator[Finding]:
        raise ZeroDivisionError("oh")
        yield

    broken, *rest = findings(place, [breaks, machine.python])
    assert (broken.level, broken.check) == (NOTE, "breaks")
    assert "ZeroDivisionError: oh" in broken.finding
    assert len(rest) == 2


def test_summaries() -> None:
    one, two = Finding(NOTE, "a", "b"), Finding(PROBLEM, "a", "b", "c")
    assert [summary(found) for found in ([], [one], [one, one], [one, two], [two, two])] == [
        "Nothing keeps the server from working.",
        "Nothing keeps the server from working; 1 note.",
        "Nothing keeps the server from working; 2 notes.",
        "1 problem to mend before the server works.",
        "2 problems to mend before the server works.",
    ]


# this machine, checked by hand


def test_python_and_sqlite(place: Place) -> None:
    ours, sqlite = machine.python(place)
    assert ours == Finding(OK, "python", shell(f"{sys.executable} --version"))
    assert sqlite == Finding(OK, "python", "SQLite " + sqlite3.connect(":memory:").execute("SELECT sqlite_version()").fetchone()[0])


def test_kernel(place: Place) -> None:
    needs, namespaces = machine.kernel(place)
    assert needs.level is OK
    assert needs.finding.startswith(f"Linux {shell('uname -r')}: ")
    allowed = subprocess.run(["unshare", "-U", "true"], capture_output=True, check=False).returncode == 0
    assert (namespaces.level is OK) == allowed or os.geteuid() == 0


def test_the_system_that_tasks_run_on(place: Place) -> None:
    found = only(machine.system(place))
    assert found.level is OK
    assert shell(". /etc/os-release; echo $PRETTY_NAME") in found.finding
    assert "whatever image" in found.finding


def test_cores_and_memory(place: Place) -> None:
    found = only(machine.cores(place))
    assert found.level is not OK or found.finding == f"{shell('nproc')} cores"
    memory = only(machine.memory(place))
    assert f" of {size(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))} memory" in memory.finding


def test_open_files(place: Place) -> None:
    assert only(machine.open_files(place)) == machine.open_files_of(*resource.getrlimit(resource.RLIMIT_NOFILE))
    soft = shell("ulimit -n")
    assert soft == "unlimited" or soft in only(machine.open_files(place)).finding


def test_disk(place: Place) -> None:
    kind, space, *_ = storage.disk(place)
    name = shell(f"df --output=fstype {place.directory} | tail -1")
    assert name in kind.finding
    assert shell(f"df --output=target {place.directory} | tail -1") in kind.finding
    free, total = (int(shell(f"df -B1 --output={column} {place.directory} | tail -1")) for column in ("avail", "size"))
    assert space.finding.endswith(f" of {size(total)} are free")
    assert storage.space(free, total).level is space.level
    assert only(storage.fsync(place)).finding.startswith("an fsync takes ")
    assert list(place.directory.iterdir()) == [], "nothing is left behind"


def test_cgroups_end_what_runs_in_them_as_it_says(place: Place) -> None:
    found = only(isolation.cgroups(place))
    if found.level is NOTE:
        assert "may outlive its task" in found.finding
        return
    where = Path(found.finding.partition("(in ")[2].rstrip(")"))
    trial = where / f"by-hand-{os.getpid()}"
    trial.mkdir()
    try:
        with subprocess.Popen(["sleep", "1000"]) as sleeper:
            (trial / "cgroup.procs").write_text(str(sleeper.pid))
            if "v2" in found.finding:
                (trial / "cgroup.kill").write_text("1")
            else:
                assert (trial / "freezer.state").exists()
                sleeper.kill()
            assert sleeper.wait(10) == -9
    finally:
        trial.rmdir()
    assert not list(where.glob("batchyard-doctor*")), "nothing is left behind"


def test_limits_hold_where_it_says(place: Place) -> None:
    for found, (version_1, version_2) in zip(
        isolation.limits(place), [("memory.limit_in_bytes", "memory.max"), ("cpu.cfs_quota_us", "cpu.max")], strict=True
    ):
        if found.level is OK:
            trial = Path(found.finding.partition("cgroup in ")[2].rstrip(")")) / f"by-hand-{os.getpid()}"
            trial.mkdir()
            try:
                assert (trial / version_1).exists() or (trial / version_2).exists()
            finally:
                trial.rmdir()
        else:
            assert found.mend


def test_users_can_be_switched_to_as_it_says(place: Place) -> None:
    found = next(iter(isolation.users(Place(Path("/"), "127.0.0.1", 0))))
    base = claims.free_range() or BLOCKS_FROM
    switch = f"{sys.executable} -c 'import os; os.setgid({base}); os.setuid({base}); print(os.getuid())'"
    done = subprocess.run(["sh", "-c", switch], capture_output=True, text=True, check=False)
    assert (found.level is OK) == (done.stdout == f"{base}\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs tasks as other users")
def test_the_users_are_those_that_the_next_node_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "last").write_text("199000")
    monkeypatch.setattr(claims, "DIRECTORY", tmp_path)
    monkeypatch.setattr(claims, "MAPS", (str(tmp_path / "map"),))
    for mapped, said in ((2**32 - 1, "from uid 200000 on for the next one"), (200_000, "from uid 70000 on for the next one")):
        (tmp_path / "map").write_text(f"0 0 {mapped}")
        assert said in next(iter(isolation.users(Place(Path("/"), "127.0.0.1", 0)))).finding
    (tmp_path / "70000").write_text(json.dumps({"root": "/", "inode": os.stat("/").st_ino}))
    (tmp_path / "map").write_text("0 0 71000")
    found = next(iter(isolation.users(Place(Path("/"), "127.0.0.1", 0))))
    assert (found.level, "another node would share them" in found.finding) == (NOTE, True)
    assert found.mend


def test_a_directory_that_tasks_may_not_enter(place: Place) -> None:
    place.directory.chmod(0o700)
    found = [one for one in [*storage.directory(place), *isolation.users(place)] if one.level is NOTE]
    if os.geteuid() == 0:
        assert {one.check for one in found} >= {"state directory", "users"}
        assert any("chmod o+x" in one.mend for one in found)
    else:
        assert any("share the agent's user" in one.finding for one in found)


def test_the_clock_is_as_the_kernel_says(place: Place) -> None:
    timex = ctypes.create_string_buffer(512)
    state = ctypes.CDLL(None).adjtimex(timex)
    status = struct.unpack_from("i4xqqqqi", timex)[5] if struct.calcsize("l") == 8 else struct.unpack_from("illlli", timex)[5]
    assert service.kernel_clock() == (state != 5 and not status & 0x40)
    found = only(service.clock(place))
    assert found.level is (OK if service.kernel_clock() else NOTE)


def test_a_free_port_and_a_taken_one(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        found = only(service.port(Place(place.directory, "127.0.0.1", number)))
        assert (found.level, service.listener(number)) == (PROBLEM, f"{comm()} (process {os.getpid()})")
    found = only(service.port(Place(place.directory, "127.0.0.1", number)))
    assert (found.level, found.finding) == (OK, f"port {number} of 127.0.0.1 is free")
    assert service.listener(number) == ""


# a server


def test_a_server_that_runs(server: Server) -> None:
    number = int(server.endpoint.rpartition(":")[2])
    here = Place(server.directory, "127.0.0.1", number)
    [health] = service.server(here)
    assert health.finding.startswith(f"the server at {server.endpoint} answered in ")
    running = daemon.running(server.directory)
    assert running is not None
    assert only(service.port(here)).finding == f"port {number} is this server's (process {running.pid})"
    assert list(service.clock(here))[-1] == Finding(OK, "clock", "the server's clock agrees with this one")
    assert [found.level for found in storage.directory(here) if found.level is PROBLEM] == []


def test_a_server_that_was_killed(own_server: Server) -> None:
    own_server.kill()
    found = only(service.server(Place(own_server.directory, "127.0.0.1", 0)))
    assert found == Finding(NOTE, "server", f"no server of {own_server.directory} is running", f"batchyard up --dir {own_server.directory}")


def test_agents_without_their_server(place: Place) -> None:
    idle = ["-c", "print(flush=True); input()", "batchyard.agent.main", "--root", str(place.directory / "nodes" / "n" / "root")]
    with subprocess.Popen([sys.executable, *idle], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        agent.stdout.readline()
        left, none = service.server(place)
        agent.kill()
    assert (left.finding, left.mend) == ("1 agents run without their server", f"batchyard down --dir {place.directory}")
    assert "no server" in none.finding


def test_what_others_may_read(place: Place) -> None:
    for name in ("account.json", "batchyard.db"):
        (place.directory / name).touch(mode=0o600)
    assert PROBLEM not in {found.level for found in storage.directory(place)}
    (place.directory / "account.json").chmod(0o640)
    place.directory.chmod(0o777)
    keys, changes = (found for found in storage.directory(place) if found.level is PROBLEM)
    assert keys.mend == f"chmod 600 {place.directory / 'account.json'}"
    assert changes.mend == f"chmod go-w {place.directory}"


# other machines, in words

INFO = "MemTotal: {total} kB\nMemFree: 10 kB\nMemAvailable: {free} kB\n"
V1 = "cgroup {0}/memory cgroup rw,memory 0 0\ncgroup {0}/cpu cgroup rw,cpu,cpuacct 0 0\ncgroup2 {0}/unified cgroup2 rw 0 0\n"


@pytest.mark.parametrize(
    ("found", "level", "words"),
    [
        (machine.memory_of(INFO.format(total=8 << 20, free=4 << 20)), OK, "4.0 GiB of 8.0 GiB"),
        (machine.memory_of(INFO.format(total=8 << 20, free=600 << 10)), NOTE, "600 MiB of 8.0 GiB"),
        (machine.memory_of(INFO.format(total=8 << 20, free=100 << 10)), PROBLEM, "100 MiB of 8.0 GiB"),
        (machine.memory_of(INFO.format(total=8 << 20, free=4 << 20), 512 << 20), NOTE, "cgroup gets 512 MiB"),
        (machine.memory_of(INFO.format(total=8 << 20, free=4 << 20), 1 << 62), OK, "4.0 GiB of 8.0 GiB"),
        (machine.cores_of(4, 4, "max", "100000"), OK, "4 cores"),
        (machine.cores_of(4, 4, "-1", "100000"), OK, "4 cores"),
        (machine.cores_of(4, 4, "150000", "100000"), NOTE, "gets 1.5 of 4 cores"),
        (machine.cores_of(2, 8, "", ""), NOTE, "2 of 8 cores"),
        (machine.open_files_of(1 << 20, 1 << 20), OK, "1048576 files"),
        (machine.open_files_of(resource.RLIM_INFINITY, resource.RLIM_INFINITY), OK, "any number of files"),
        (machine.open_files_of(1024, 20_000), NOTE, "only 1024"),
        (machine.open_files_of(100, 100), PROBLEM, "only 100"),
        (storage.space(100 << 20, 1 << 40), PROBLEM, "100 MiB of 1.0 TiB"),
        (storage.space(1 << 30, 1 << 40), NOTE, "1.0 GiB of"),
        (storage.space(1 << 39, 1 << 40), OK, "512 GiB of"),
        (storage.inodes(20, 1_000), PROBLEM, "20 of 1,000 inodes"),
        (storage.fsync_of(0.0004), OK, "0.40 ms"),
        (storage.fsync_of(0.05), NOTE, "50.00 ms"),
        (service.skew_of(0.4), OK, "agrees"),
        (service.skew_of(-60), NOTE, "60 s behind"),
        (service.skew_of(1_000), PROBLEM, "1000 s ahead"),
    ],
)
def test_findings_of_other_machines(found: Finding, level: Level, words: str) -> None:
    assert found.level is level
    assert words in found.finding
    assert found.mend or level is OK


def test_the_mend_for_open_files_is_one_that_works() -> None:
    assert machine.open_files_of(1024, 20_000).mend == "ulimit -n 20000"
    assert machine.open_files_of(1024, resource.RLIM_INFINITY).mend == "ulimit -n 65536"
    assert "hard limit" in machine.open_files_of(1024, 1024).mend


@pytest.mark.parametrize(
    ("mount", "level", "words"),
    [
        ("/dev/sda1 /data ext4 rw 0 0", OK, "/data is ext4"),
        ("/dev/sda1 /data xfs rw,noexec 0 0", NOTE, "noexec"),
        ("/dev/sda1 /data ext4 ro,relatime 0 0", PROBLEM, "read-only"),
        ("tmpfs /data tmpfs rw 0 0", NOTE, "memory"),
        ("overlay / overlay rw 0 0", NOTE, "container"),
        ("host:/export /data nfs4 rw 0 0", PROBLEM, "network file system (nfs4)"),
        ("a /data ext4 rw 0 0\nb /data/batch nfs rw 0 0", PROBLEM, "/data/batch"),
        ("a /dat nfs rw 0 0\nb /data\\040x nfs rw 0 0", OK, "/ is ext4"),
        ("a /data nfs rw 0 0\nb /data ext4 rw 0 0", OK, "/data is ext4"),
    ],
)
def test_file_systems(mount: str, level: Level, words: str) -> None:
    found = storage._kind(storage.file_system(Path("/data/batch/yard"), f"/dev/root / ext4 rw 0 0\n{mount}\n"))
    assert found.level is level
    assert words in found.finding


def test_places_of_controllers(tmp_path: Path) -> None:
    for name in ("memory/mine", "cpu", "unified/mine"):
        (tmp_path / name).mkdir(parents=True)
    own = "5:cpu,cpuacct:/elsewhere\n4:memory:/mine\n0::/mine\n"
    assert list(isolation.places("memory", V1.format(tmp_path), own)) == [f"{tmp_path}/memory/mine", f"{tmp_path}/memory"]
    assert list(isolation.places("cpu", V1.format(tmp_path), own)) == [f"{tmp_path}/cpu"]
    (tmp_path / "unified/mine/cgroup.controllers").write_text("cpu memory pids\n")
    assert list(isolation.places("memory", f"cgroup2 {tmp_path}/unified cgroup2 rw 0 0\n", own)) == [f"{tmp_path}/unified/mine"]
    assert list(isolation.places("memory", "", own)) == []


def test_accounts_and_ranges_where_tasks_have_theirs() -> None:
    accounts = [("root", 0), ("ann", 1000), ("nobody", 65534), ("ldap-bob", 123456), ("minus-two", 2**32 - 2)]
    found = [one.finding for one in isolation.taken(70_000, accounts, "ann:100000:65536\nlow:1000:100\n\nodd\n")]
    assert len(found) == 2
    assert "ldap-bob has uid 123456" in found[0]
    assert "100000 to 165535 of ann" in found[1]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 0", "docker works; "),
        ("echo 'Cannot connect to the daemon.' >&2; exit 0", "does not work (Cannot connect to the daemon)"),
        ("echo x >&2; echo 'Error: cgroups broken' >&2; exit 125", "does not work (Error: cgroups broken)"),
        ("exit 3", "does not work (exit code 3)"),
        (None, "neither podman nor docker"),
    ],
)
def test_container_runtimes(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, words: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        (tmp_path / "docker").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "docker").chmod(0o755)
    found = only(machine.containers(place))
    assert found.level is NOTE
    assert words in found.finding
    assert "not served yet" in found.finding


@pytest.fixture
def login() -> Iterator[str]:
    """An account as nodes make them."""
    name = f"by_{secrets.token_hex(5)}"
    mark = f"batchyard {secrets.token_hex(6)}"
    agent_accounts.run("useradd", "--no-create-home", "--user-group", "--badname", "--uid", "79995", "--comment", mark, name)
    yield name
    agent_accounts.run("userdel", "--force", name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make accounts")
def test_accounts_of_nodes_are_nobody_that_a_task_could_be(login: str) -> None:
    assert not [one for one in isolation.users(Place(Path("/"), "127.0.0.1", 0)) if login in one.finding]
    uid = pwd.getpwnam(login).pw_uid
    assert [one for one in isolation.taken(70_000, [(login, uid)], "") if login in one.finding]


def test_node_users_need_root_and_tools(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = only(isolation.accounts(place))
    if os.geteuid() != 0:
        assert "only root" in found.finding
        return
    has_sudo = (
        subprocess.run(["sh", "-c", f"PATH={agent_accounts.PATH}; command -v sudo"], capture_output=True, check=False).returncode == 0
    )
    assert (found.level is OK) == has_sudo
    for tool in (*agent_accounts.TOOLS, "sudo"):  # which the caller has, and the agent has not
        (tmp_path / tool).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert only(isolation.accounts(place)) == found
    monkeypatch.setattr(agent_accounts, "PATH", "/nowhere")
    assert "useradd, usermod, userdel, chpasswd not found" in only(isolation.accounts(place)).finding


def test_user_namespaces(tmp_path: Path) -> None:
    assert machine._user_namespaces(tmp_path).level is NOTE
    (tmp_path / "user").mkdir()
    (tmp_path / "user/max_user_namespaces").write_text("100\n")
    assert machine._user_namespaces(tmp_path).level is OK
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel/unprivileged_userns_clone").write_text("0\n")
    assert machine._user_namespaces(tmp_path).level is NOTE


def test_a_directory_that_nobody_can_write_to() -> None:
    found = only(storage.directory(Place(Path("/proc/batchyard"), "127.0.0.1", 0)))
    with contextlib.suppress(OSError):
        Path("/proc/batchyard").mkdir()
        raise AssertionError("it could be made after all")
    assert found.level is PROBLEM


def test_every_check_is_described() -> None:
    document = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text("utf-8")
    named = [line.split("|")[1].strip() for line in document.splitlines() if line.startswith("| ") and not line.startswith("| check")]
    found: list[Any] = list(dict.fromkeys(one.check for one in findings(Place(Path("/"), "127.0.0.1", 0), CHECKS)))
    assert named == found
