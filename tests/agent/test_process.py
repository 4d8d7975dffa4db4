"""Real processes under every way of ending everything."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import stat
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SmallDisk

from batchyard.agent.process import control, process
from batchyard.agent.process.process import Command, Exit, NotLaunched, SpawnerLost, Spawners

Run = Callable[..., Awaitable[Exit]]
keys = itertools.count(1)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes as other users")

DAEMON = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1] + ".new", "w").write(str(os.getpid()))
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        os.close(1), os.close(2)
        import time
        time.sleep(1000)
    os._exit(0)
while not os.path.exists(sys.argv[1]):
    pass
"""


@pytest.fixture
async def spawners(any_control: tuple[str, str, str]) -> AsyncIterator[Spawners]:
    found = Spawners(any_control, 1)
    yield found
    await found.close()
    if any_control[1]:
        assert not [entry for entry in Path(any_control[1]).glob("*") if entry.is_dir()]
        control.make(*any_control).sweep()


@pytest.fixture
def run(spawners: Spawners, place: Path) -> Run:
    (place / "wd").mkdir()
    (place / "wd").chmod(0o777)
    place.chmod(0o777)

    async def run(*argv: str, key: int = 0, uid: int = -1, limit_s: float | None = None, log: str = "std", **variables: str) -> Exit:
        environment = {"PATH": "/usr/bin:/bin", control.MARK: str(place)} | variables
        logs = str(place / f"{log}out.txt"), str(place / f"{log}err.txt")
        return await spawners.run(key or next(keys), Command(list(argv), environment, str(place / "wd"), *logs, uid, limit_s))

    return run


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("kill -PIPE $$", 141)]
)
async def test_exit_codes_and_signals(run: Run, script: str, code: int) -> None:
    done = await run("sh", "-c", script)
    assert done.code == code
    assert 0 < done.started <= done.ended
    assert not done.overdue


async def test_output_goes_to_new_files_each_time_and_input_is_empty(run: Run, place: Path) -> None:
    await run("sh", "-c", "echo a long line; echo error >&2; cat")
    await run("echo", "short")
    assert (place / "stdout.txt").read_text() == "short\n"
    assert (place / "stderr.txt").read_text() == ""


async def test_the_environment_is_built_from_nothing(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "x")
    await run("/usr/bin/env", "-0", ONE="a=b\nc")
    lines = (place / "stdout.txt").read_text().rstrip("\0").split("\0")
    assert sorted(lines) == [f"{control.MARK}={place}", "ONE=a=b\nc", "PATH=/usr/bin:/bin"]


async def test_the_process_leads_a_session_with_default_signals_and_no_inherited_files(run: Run, place: Path) -> None:
    script = "echo $$; cut -d' ' -f6 /proc/$$/stat; ls /proc/self/fd; grep -E 'SigIgn|SigBlk' /proc/self/status; umask"
    await run("sh", "-c", script)
    pid, session, *rest = (place / "stdout.txt").read_text().split()
    assert pid == session
    files, (_, blocked, _, ignored, mask) = rest[:-5], rest[-5:]
    assert files == ["0", "1", "2", "3"]
    assert (int(blocked, 16), int(ignored, 16) & ~(3 << 31), mask) == (0, 0, "0022")  # the C library keeps two signals for itself


async def test_programs_are_found_from_the_working_directory_then_on_the_tasks_path(run: Run, place: Path) -> None:
    for name, text in (("wd/here", "wd"), ("there", "path"), ("wd/both", "wd"), ("both", "path")):
        (place / name).write_text(f"#!/bin/sh\necho {text}\n")
        (place / name).chmod(0o755)
    for name, text in (("here", "wd"), ("./here", "wd"), ("there", "path"), ("both", "wd")):
        await run(name, PATH=f"/nowhere:{place}")
        assert (place / "stdout.txt").read_text() == text + "\n"


@pytest.mark.parametrize(
    ("program", "found"), [("no-such-program", False), ("./no", False), ("/no/such", False), ("./plain", True), ("./lost", True)]
)
async def test_what_cannot_be_started(run: Run, place: Path, program: str, found: bool) -> None:
    (place / "wd/plain").write_text("not executable")
    (place / "wd/lost").write_text("#!/no/such/interpreter\n")
    (place / "wd/lost").chmod(0o755)
    with pytest.raises(NotLaunched) as caught:
        await run(program)
    assert caught.value.found is found
    assert (await run("true")).code == 0


async def test_wrong_variables_and_lost_directories_are_launch_failures(run: Run, place: Path) -> None:
    with pytest.raises(NotLaunched):
        await run("true", **{"A=B": "x"})
    with pytest.raises(NotLaunched):
        await run("true", "a\0b")
    (place / "wd").rmdir()
    with pytest.raises(NotLaunched):
        await run("true")


async def test_a_pipe_or_link_in_the_place_of_a_log_is_replaced_and_never_opened(pipe: Any, run: Run, place: Path) -> None:
    os.mkfifo(place / "stdout.txt")
    (place / "victim").write_text("untouched")
    (place / "stderr.txt").symlink_to(place / "victim")
    assert (await run("echo", "x")).code == 0
    assert stat.S_ISREG((place / "stdout.txt").lstat().st_mode)
    assert (place / "victim").read_text() == "untouched"


async def test_daemons_are_gone_when_the_end_is_told(run: Run, place: Path, alive: Callable[[int], bool]) -> None:
    file = place / "wd/pid"
    done = await run("python3", "-c", DAEMON, str(file))
    assert done.code == 0
    assert not alive(int(file.read_text()))


async def test_a_kill_ends_the_whole_tree(pipe: Any, run: Run, spawners: Spawners, place: Path, alive: Callable[[int], bool]) -> None:
    script = "(sleep 1000 & echo $! > pid1; setsid sleep 1000 & echo $! > pid2; wait) & echo x > ../pipe; wait"
    key = next(keys)
    task = asyncio.create_task(run("sh", "-c", script, key=key))
    await pipe.line()
    spawners.kill(key)
    assert (await task).code == 137
    for name in ("pid1", "pid2"):
        text = (place / "wd" / name).read_text() if (place / "wd" / name).exists() else ""
        assert not text or not alive(int(text))


async def test_a_kill_while_the_spawner_is_being_started_is_not_lost(run: Run, spawners: Spawners, place: Path) -> None:
    key = next(keys)
    task = asyncio.create_task(run("touch", "ran", key=key))
    await asyncio.sleep(0)  # it waits for the first spawner now
    spawners.kill(key)
    with pytest.raises(NotLaunched):
        await task
    assert (await run("true")).code == 0
    assert not (place / "wd" / "ran").exists()


async def test_the_time_limit_ends_everything(run: Run) -> None:
    done = await run("sh", "-c", "trap '' TERM; sleep 1000 & wait", limit_s=0.05)
    assert (done.code, done.overdue) == (137, True)
    assert not (await run("true", limit_s=1000)).overdue


async def test_the_time_limit_is_neither_longer_nor_shorter(spawners_later: Callable[[float], None], run: Run, spawners: Spawners) -> None:
    hour = 3600.0
    assert (await run("true")).code == 0, "what is started now is started in turn"
    early, late = (asyncio.create_task(run("sleep", "1000", key=key, limit_s=hour, **{control.MARK: f"run{key}"})) for key in (-1, -2))
    await asyncio.sleep(0)
    assert (await run("true")).code == 0, "they run by now"
    spawners_later(hour / 2)
    assert (await run("true")).code == 0, "it has looked at the clock"
    spawners.kill(-1)
    assert (await early).overdue is False
    spawners_later(hour)
    assert (await run("true")).code == 0
    done = await late
    assert (done.code, done.overdue) == (137, True)


@pytest.mark.parametrize("days", [25, 10_675_199], ids=str)
async def test_no_time_limit_is_too_long(run: Run, days: int) -> None:
    done = await run("true", limit_s=days * 86_400.0)
    assert (done.code, done.overdue) == (0, False)


async def test_a_killed_spawner_loses_its_runs_ends_their_processes_and_is_replaced(
    pipe: Any, run: Run, spawners: Spawners, place: Path, alive: Callable[[int], bool]
) -> None:
    task = asyncio.create_task(run("python3", "-c", DAEMON + "open('../pipe', 'w').write('x\\n')\nimport time\ntime.sleep(1000)", "pid"))
    await pipe.line()
    spawner = (await spawners._spawner(0)).pid
    os.kill(spawner, signal.SIGKILL)
    with pytest.raises(SpawnerLost):
        await task
    assert not alive(int((place / "wd/pid").read_text()))
    assert (await run("true")).code == 0


async def test_a_spawner_that_was_stopped_is_killed_and_replaced(
    pipe: Any, run: Run, spawners: Spawners, place: Path, alive: Callable[[int], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_PING_S", 0.5)
    task = asyncio.create_task(run("sh", "-c", "echo $$ > pid; echo x > ../pipe; sleep 1000"))
    await pipe.line()
    os.kill((await spawners._spawner(0)).pid, signal.SIGSTOP)
    with pytest.raises(SpawnerLost):
        await asyncio.wait_for(task, 20)
    assert not alive(int((place / "wd/pid").read_text()))
    assert (await run("sleep", "4")).code == 0, "one that answers is left alone"


async def test_closing_waits_for_no_spawner_that_was_stopped(
    run: Run, spawners: Spawners, alive: Callable[[int], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_CLOSE_S", 0.5)
    await run("true")
    spawner = (await spawners._spawner(0)).pid
    os.kill(spawner, signal.SIGSTOP)
    await asyncio.wait_for(spawners.close(), 20)
    assert not alive(spawner)


async def test_closing_ends_everything(pipe: Any, run: Run, spawners: Spawners, place: Path, alive: Callable[[int], bool]) -> None:
    task = asyncio.create_task(run("sh", "-c", "echo $$ > pid; echo x > ../pipe; sleep 1000"))
    await pipe.line()
    await spawners.close()
    assert not alive(int((place / "wd/pid").read_text()))
    with pytest.raises(SpawnerLost):
        await task


async def test_an_idle_spawner_starts_the_first_of_many_before_the_last_is_made(run: Run, place: Path) -> None:
    await run("true", log="warm-up")
    runs = [asyncio.create_task(run("true", log=name)) for name in ("first", "second")]
    await asyncio.sleep(0)  # from here on the loop stands still, as it does while it makes the others
    deadline = time.monotonic() + 20
    while not (place / "firstout.txt").exists() and time.monotonic() < deadline:
        pass
    assert (place / "firstout.txt").exists()
    await asyncio.gather(*runs)


async def test_many_at_once(run: Run) -> None:
    done = await asyncio.gather(*(run("sh", "-c", f"exit {n % 7}", log=f"log{n}") for n in range(60)))
    assert [each.code for each in done] == [n % 7 for n in range(60)]


@needs_root
async def test_users_are_switched_for_good_and_the_spawner_stays_itself(run: Run, place: Path) -> None:
    script = "id -u; id -g; id -G; grep ^Uid: /proc/self/status; grep ^Gid: /proc/self/status; grep ^CapEff /proc/self/status"
    (place / "wd").chmod(0o777)
    assert (await run("sh", "-c", script, uid=70123)).code == 0
    words = (place / "stdout.txt").read_text().split()
    assert words == ["70123"] * 3 + ["Uid:", *["70123"] * 4, "Gid:", *["70123"] * 4, "CapEff:", "0" * 16]
    assert (place / "stdout.txt").stat().st_uid == 70123
    with pytest.raises(NotLaunched):
        await run("no-such-program", uid=70123)
    (place / "stdout.txt").unlink(), (place / "stderr.txt").unlink()
    await run("id", "-u", uid=0)
    assert (place / "stdout.txt").read_text() == "0\n"


@needs_root
async def test_attempts_of_other_users_than_root_have_one_group_after_the_other(place: Path) -> None:
    found = control.probe(place.name, "cgroup2")
    if found[0] != "cgroup2":
        pytest.skip("this machine does not let the tests use cgroup2")
    spawners = Spawners(found, 1)
    place.chmod(0o777)

    async def own_group(key: int, uid: int, script: str = "true") -> str:
        log = str(place / f"out-{key}")
        variables = {"PATH": "/usr/bin:/bin", control.MARK: str(place)}
        words = ["sh", "-c", f"grep ^0: /proc/self/cgroup; {script}"]
        assert (await spawners.run(key, Command(words, variables, "/", log, str(place / f"err-{key}"), uid))).code == 0
        return Path(log).read_text().strip()

    try:
        groups = [await own_group(key, 70_000 + key, "sleep 1000 & true") for key in range(1, 7)]
        assert len(set(groups)) <= 2
        roots = [await own_group(key, 0) for key in range(7, 11)]
        assert len(set(roots)) == len(roots)
    finally:
        await spawners.close()
        control.make(*found).sweep()


@needs_root
def test_a_group_that_was_frozen_or_removed_serves_no_other_attempt(place: Path) -> None:
    found = control.probe(place.name, "cgroup2")
    if found[0] != "cgroup2":
        pytest.skip("this machine does not let the tests use cgroup2")
    own = control.make(*found)
    try:
        frozen, second = own.take("one", tame=True), None
        own.advance()
        control_file = Path(found[1], "1", "cgroup.freeze")
        control_file.write_text("1")
        assert frozen.gone()
        assert not control_file.parent.exists()
        second = own.take("two", tame=True)
        own.advance()
        assert second.gone()
        os.rmdir(Path(found[1], "2"))
        for _ in range(2):
            third = own.take("three", tame=True)
            own.advance()
        assert third is not second
        assert third.gone()
    finally:
        own.leave()
        own.sweep()


@needs_root
async def test_a_program_that_only_root_may_enter_cannot_be_started(run: Run, place: Path) -> None:
    (place / "wd/mine").write_text(textwrap.dedent("#!/bin/sh\nid -u\n"))
    (place / "wd/mine").chmod(0o700)
    with pytest.raises(NotLaunched) as caught:
        await run("./mine", uid=70123)
    assert caught.value.found


async def test_the_spawner_stays_small(run: Run, spawners: Spawners) -> None:
    await run("true")
    status = Path(f"/proc/{(await spawners._spawner(0)).pid}/status").read_text()
    kilobytes = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert kilobytes < 16_000


def test_a_process_that_cannot_move_on_goes_home(any_control: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    name, base, _ = any_control
    own = Path("/proc/self/cgroup")
    found = control.make(*any_control)
    before = own.read_text()
    group = found.take("")
    assert name == "session" or f"{os.path.basename(base)}/1" in own.read_text()
    with monkeypatch.context() as full:
        full.setattr(os, "mkdir", lambda *_: os.rmdir("/no/such"))
        found.advance()
    assert own.read_text() == before
    assert group.gone()
    found.advance()
    found.leave()
    found.sweep()
    assert own.read_text() == before


async def test_a_command_whose_logs_have_no_room_is_told_apart(spawners: Spawners, small_disk: Callable[[int], SmallDisk]) -> None:
    disk = small_disk(1 << 20)
    command = Command(["/bin/true"], {"PATH": "/bin"}, str(disk.path), str(disk.path / "out"), str(disk.path / "err"))
    disk.fill_inodes()
    with pytest.raises(NotLaunched) as refused:
        await spawners.run(1, command)
    assert (refused.value.found, refused.value.full) == (True, True)
    disk.relieve()
    assert (await spawners.run(2, command)).code == 0


async def test_a_command_inside_of_a_run_ends_alone_or_with_it(spawners: Spawners, run: Run, place: Path) -> None:
    host, ends, stays = next(keys), next(keys), next(keys)

    async def inside(key: int, name: str) -> Exit:
        pipes = str(place / f"{name}.out"), str(place / f"{name}.err")
        held = []
        for path in pipes:
            os.mkfifo(path)
            held.append(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        script = f"setsid sleep 1000 & echo $! $$ > {place}/{name}.new; mv {place}/{name}.new {place}/{name}; wait"
        command = Command(["sh", "-c", script], {"PATH": "/usr/bin:/bin", control.MARK: str(place)}, str(place / "wd"), *pipes)
        try:
            return await spawners.run_inside(key, host, command)
        finally:
            for fd in held:
                os.close(fd)

    async def pids(name: str) -> list[int]:
        async with asyncio.timeout(20):
            while not (place / name).exists():
                await asyncio.sleep(0.01)
        return [int(word) for word in (place / name).read_text().split()]

    running = asyncio.create_task(run("sh", "-c", f"echo $$ > {place}/h.new; mv {place}/h.new {place}/host; exec sleep 1000", key=host))
    [main] = await pids("host")
    first, second = asyncio.create_task(inside(ends, "first")), asyncio.create_task(inside(stays, "second"))
    one, two = await pids("first"), await pids("second")
    spawners.kill(ends)
    assert (await first).code == 137
    assert not [pid for pid in one if control.processes().get(pid)]
    assert not second.done()
    assert main in control.processes()
    spawners.kill(host)
    assert (await second).code == (await running).code == 137
    assert not [pid for pid in [main, *two] if control.processes().get(pid)]
    with pytest.raises(NotLaunched, match="the task has ended"):
        await inside(next(keys), "third")


async def test_a_command_inside_ends_with_a_run_that_ends_by_itself(spawners: Spawners, run: Run, place: Path) -> None:
    host = next(keys)
    running = asyncio.create_task(run("sh", "-c", f"touch {place}/up; until [ -e {place}/inner ]; do sleep 0.01; done; exit 3", key=host))
    async with asyncio.timeout(20):
        while not (place / "up").exists():
            await asyncio.sleep(0.01)
    pipes = str(place / "out"), str(place / "err")
    for path in pipes:
        os.mkfifo(path)
    held = [os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in pipes]
    try:
        script = f"echo $$ > {place}/new; mv {place}/new {place}/inner; exec sleep 1000"
        command = Command(["sh", "-c", script], {"PATH": "/usr/bin:/bin", control.MARK: str(place)}, str(place / "wd"), *pipes)
        async with asyncio.timeout(20):
            inner = await spawners.run_inside(next(keys), host, command)
    finally:
        for fd in held:
            os.close(fd)
    assert (inner.code, (await running).code) == (137, 3)
