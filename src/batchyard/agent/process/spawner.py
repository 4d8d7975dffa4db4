"""The small process that starts tasks, waits for them and ends all that they started.

It runs alone as a script (`python -I -S spawner.py FD CONTROL BASE HOME WATCH [GROUP …]`; WATCH is a file that it holds
locked, and removes once all that it ran has ended; the groups hold it and its tasks to the node's limits) on the
standard library, so that it stays small: starting a process from a grown one costs many times as much. One thread, one
loop over its socket and its children. Frames on the socket are a length (4 bytes,
little endian) and a marshalled tuple:

    to it:    ("start", key, argv, environment, directory, stdout, stderr, uid, gid, limit_s)    ("kill", key)    ("terminate", key)
                 ("exec", key, argv, environment, directory, stdout, stderr, uid, gid, limit_s, host)    ("ping", 0)
                 ("stay", …) as ("start", …)
    from it:  ("ended", key, code, started_us, ended_us, user_us, kernel_us, overdue, noticed)    ("failed", key, found, text, full)
                 ("alive", 0)    ("stays", key)

A run that was begun with `stay` is not over when its process exits with 0: what that left running goes on, until it is killed.
`exec` is a start inside of another run, the host, and ends with it; its output goes to named pipes that are there.
An end is told once everything that the attempt started is gone. When the socket closes, everything is killed.
Invariant: outside of `_launch` the process has its own credentials, and stands in no group that may be killed; where it
is root, the kernel does not choose it either when the memory that it shares with its tasks runs out.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import marshal
import os
import select
import signal
import stat
import sys
import time
from collections import deque
from collections.abc import Sequence

if __name__ == "__main__":
    sys.path.append(os.path.abspath(f"{__file__}/../../../.."))

from batchyard.agent.process.alone import FIRST_TO_GO, become_subreaper, close_all_but, hold, own_score
from batchyard.agent.process.control import MARK, Control, Group, Session, enter, leave, make

Start = tuple[str, int, list[str], dict[str, str], str, str, str, int, int, float]
Exec = tuple[str, int, list[str], dict[str, str], str, str, str, int, int, float, int]

_RESET = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_TRUNCATED = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NOCTTY
_PIECE = 1 << 16
"""Bytes that are read at a time: for a larger buffer the C library asks the kernel each time, which takes ten times as long."""
_PATIENCE_S = 5.0
"""How long an end is held back while a killed process does not go away (uninterruptible I/O)."""
_LONGEST_WAIT_MS = 86_400_000.0
"""`poll` takes no more than 24 days; what is due later is looked at again."""


class NotFound(Exception):
    """There is no such program."""


class Run:
    """A task process and what is known of it."""

    __slots__ = (
        "asked",
        "code",
        "deadline",
        "ended",
        "group",
        "host",
        "kernel",
        "key",
        "killed",
        "left",
        "noticed",
        "overdue",
        "pause",
        "pid",
        "started",
        "stays",
        "user",
    )

    def __init__(self, key: int, group: Group, host: int | None = None) -> None:
        self.key, self.group, self.host = key, group, host
        self.pid: int | None = None
        self.started = self.ended = self.user = self.kernel = self.code = 0
        self.overdue = self.noticed = self.stays = self.killed = self.left = False
        self.pause, self.asked, self.deadline = 0.0005, 0.0, 0.0


class Spawner:
    """The loop and its books; `fd` is a connected stream socket."""

    def __init__(self, fd: int, control: Control) -> None:
        self._fd, self._control = fd, control
        self._root = os.geteuid() == 0
        self._score, self._calm = own_score(self._root)
        self._queue: deque[Start | Exec] = deque()
        self._by_key: dict[int, Run] = {}
        self._by_pid: dict[int, Run] = {}
        self._guests: set[Run] = set()
        """Those of the runs that are inside of others."""
        self._noticed: set[int] = set()
        """Keys of the queue whose runs get SIGTERM as soon as they are there."""
        self._leaving: list[Run] = []
        self._timers: list[tuple[float, int]] = []
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._wake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Work until the other side closes the socket, then kill everything."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        self._control.advance()
        try:
            while True:
                ready = [fd for fd, _ in poll.poll(self._timeout_ms())]
                if self._fd in ready and not self._receive():
                    return
                if self._wake in ready:
                    os.read(self._wake, 4096)
                    self._reap()
                if self._queue:
                    self._start(self._queue.popleft())
                self._watch_limits()
                self._see_off()
                self._flush()
        except BrokenPipeError:
            return
        finally:
            self._end_all()

    def _timeout_ms(self) -> float | None:
        if self._queue:
            return 0
        now = time.monotonic()
        due = [run.asked + run.pause for run in self._leaving]
        if self._timers:
            due.append(self._timers[0][0])
        return min(max(0.0, (min(due) - now) * 1000 + 0.2), _LONGEST_WAIT_MS) if due else None

    def _receive(self) -> bool:
        try:
            data = os.read(self._fd, _PIECE)
        except ConnectionResetError:
            return False
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= 4:
            end = at + 4 + int.from_bytes(buffer[at : at + 4], "little")
            if len(buffer) < end:
                break
            message = marshal.loads(memoryview(buffer)[at + 4 : end])
            at = end
            if message[0] in ("start", "stay", "exec"):
                self._queue.append(message)
            elif message[0] == "terminate":
                self._terminate(message[1])
            elif message[0] == "ping":
                self._tell("alive", message[1])
            else:
                self._kill(message[1])
        if at:
            del buffer[:at]
        return bool(data)

    def _kill(self, key: int) -> None:
        run = self._by_key.get(key)
        if run is not None:
            run.killed = True
            self._end_guests(key)
            run.group.kill(run.pid)
            if run.pid is None and not run.left:
                self._leave(run)
            return
        for message in self._queue:
            if message[1] == key:
                self._queue.remove(message)
                self._tell("failed", key, True, "killed before its start", False)
                return

    def _end_guests(self, key: int) -> None:
        """What runs inside of a run ends with it."""
        for guest in self._guests:
            if guest.host == key:
                guest.group.kill(guest.pid)

    def _terminate(self, key: int) -> None:
        """SIGTERM to the group that a run's first process leads; until that was waited for nobody else can have its number."""
        run = self._by_key.get(key)
        if run is None:
            self._noticed |= {key} & {message[1] for message in self._queue}
        elif run.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # a command like sudo is not the agent's to signal
                os.killpg(run.pid, signal.SIGTERM)
                run.noticed = True

    def _start(self, message: Start | Exec) -> None:
        what, key, argv, environment, directory, stdout, stderr, uid, gid, limit_s, *hosts = message
        host = self._by_key.get(hosts[0]) if hosts else None
        if hosts and (host is None or host.left):
            self._tell("failed", key, True, "the task has ended", False)
            return
        try:
            if host is not None:
                group = self._control.inside(host.group, key)
            else:
                group = self._control.take(environment.get(MARK, ""), tame=self._root and uid > 0)
        except OSError as error:
            self._tell("failed", key, True, f"no process group: {error.strerror}", False)
            return
        run = Run(key, group, None if host is None else host.key)
        run.stays = what == "stay"
        due = time.monotonic() + limit_s
        try:
            run.pid = self._launch(run, argv, environment, (directory, stdout, stderr), (uid, gid))
        except (OSError, ValueError, NotFound) as error:
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            self._tell("failed", key, not isinstance(error, NotFound), _text(error), full)
            with contextlib.suppress(OSError):
                group.gone()
            return
        self._by_key[key] = self._by_pid[run.pid] = run
        if host is not None:
            self._guests.add(run)
        if key in self._noticed:
            self._noticed.discard(key)
            self._terminate(key)
        if limit_s >= 0:
            self._limit(key, due)

    def _limit(self, key: int, due: float) -> None:
        if len(self._timers) > 64 + 2 * len(self._by_key):  # mostly of runs that ended in time
            self._timers = [timer for timer in self._timers if timer[1] in self._by_key]
            heapq.heapify(self._timers)
        heapq.heappush(self._timers, (due, key))

    def _launch(self, run: Run, argv: list[str], environment: dict[str, str], where: tuple[str, str, str], who: tuple[int, int]) -> int:
        """Process id of the started command. Raises NotFound, OSError or ValueError, always after becoming itself again."""
        pipes: list[int] = []
        try:
            (directory, *logs), (uid, gid) = where, who
            if run.host is not None:
                pipes += (pipe_end(path) for path in logs)
            self._weigh(FIRST_TO_GO)
            if self._root and uid > 0:
                os.setresgid(gid, gid, 0)
                os.setresuid(uid, uid, 0)
            try:
                os.chdir(directory)
                program = find(argv, environment.get("PATH", ""))
                run.started = time.time_ns() // 1000
                pid = spawn(program, argv, environment, logs, pipes)
            except (OSError, ValueError, NotFound) as error:
                if run.host is None:
                    complain(logs, f"batchyard: {argv[0] + ': ' if argv[0] else ''}{_text(error)}\n")
                raise
            if isinstance(self._control, Session):
                run.group.started(pid)  # type: ignore[attr-defined]
            return pid
        finally:
            for fd in pipes:
                os.close(fd)
            self._restore(run)

    def _become_itself(self) -> None:
        if self._root:
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)

    def _weigh(self, score: bytes) -> None:
        """Set the own oom_score_adj, where that can be done."""
        with contextlib.suppress(OSError):
            os.pwrite(self._score, score, 0)

    def _restore(self, run: Run) -> None:
        try:
            self._become_itself()
            self._weigh(self._calm)
            os.chdir("/")
            if run.host is None:
                self._control.advance()
            else:
                self._control.back()
        except BaseException:
            os._exit(70)  # in the wrong place or as the wrong user nothing may be started any more

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            run = self._by_pid.pop(pid, None)
            if run is None:
                continue  # an orphan
            run.pid = None
            run.code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            run.ended = time.time_ns() // 1000
            run.user, run.kernel = round(usage.ru_utime * 1e6), round(usage.ru_stime * 1e6)
            if run.stays and run.code == 0 and not run.killed:
                if isinstance(self._control, Session):
                    run.group.stays()  # type: ignore[attr-defined]
                self._tell("stays", run.key)
            else:
                self._leave(run)

    def _leave(self, run: Run) -> None:
        """The run is over, but for what is left of its group."""
        run.left = True
        run.deadline = time.monotonic() + _PATIENCE_S
        self._end_guests(run.key)
        self._leaving.append(run)

    def _see_off(self) -> None:
        """Tell the ends whose groups are empty; kill again what is left of the others."""
        if not self._leaving:
            return
        staying = []
        for run in self._leaving:
            now = time.monotonic()
            if now < run.asked + run.pause:
                staying.append(run)
            elif run.group.gone() or now > run.deadline:
                del self._by_key[run.key]
                self._guests.discard(run)
                self._tell("ended", run.key, run.code, run.started, run.ended, run.user, run.kernel, run.overdue, run.noticed)
            else:
                run.group.kill(None)
                run.asked, run.pause = now, min(run.pause * 2, 0.05)
                staying.append(run)
        self._leaving = staying

    def _watch_limits(self) -> None:
        while self._timers and self._timers[0][0] <= time.monotonic():
            run = self._by_key.get(heapq.heappop(self._timers)[1])
            if run is not None and run.pid is not None:
                run.overdue = True
                self._kill(run.key)

    def _tell(self, *message: str | int | bool) -> None:
        data = marshal.dumps(message)
        self._out.append(len(data).to_bytes(4, "little") + data)

    def _flush(self) -> None:
        if self._out:
            data = memoryview(b"".join(self._out))
            self._out.clear()
            while data:
                data = data[os.write(self._fd, data) :]

    @property
    def is_idle(self) -> bool:
        """True when nothing runs that it started."""
        return not self._by_key

    def _end_all(self) -> None:
        self._queue.clear()
        deadline = time.monotonic() + _PATIENCE_S
        for run in self._by_key.values():
            run.group.kill(run.pid)
            if run.pid is None and not run.left:
                self._leave(run)
        while self._by_key and time.monotonic() < deadline:
            self._reap()
            self._see_off()
            time.sleep(0.001)
        with contextlib.suppress(OSError):
            self._control.leave()
            self._control.sweep()


def _text(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def complain(logs: Sequence[str], text: str) -> None:
    """Make the log files of a command that was not started, with the reason in the last one, as far as that can be done."""
    for path, line in zip(logs, ["", text], strict=True):
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            fd = os.open(path, _TRUNCATED | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, line.encode("utf-8", "backslashreplace"))
            finally:
                os.close(fd)


def find(argv: Sequence[str], path: str) -> str:
    """Path of a program: as given, below the current directory, then along PATH. Raises NotFound or PermissionError.

    Words of which the first is empty name no program; the second says what is wrong with the command line then.
    """
    program = argv[0]
    if not program:
        raise NotFound(argv[1])
    candidates = [program]
    if "/" not in program:
        candidates += [f"{directory}/{program}" for directory in path.split(":") if directory]
    refused = False
    for candidate in candidates:
        try:
            if not stat.S_ISREG(os.stat(candidate).st_mode):
                continue
        except OSError as error:
            refused |= error.errno == errno.EACCES
            continue
        if os.access(candidate, os.X_OK, effective_ids=True):
            return candidate
        refused = True
    if refused:
        raise PermissionError(errno.EACCES, "Permission denied")
    where = "" if "/" in program else f" in the working directory or along {path}"
    raise NotFound(f"there is no program {program!r}{where}")


def pipe_end(path: str) -> int:
    """The end of a named pipe that is written to, whose other end is open. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    os.set_blocking(fd, True)
    return fd


def spawn(program: str, argv: list[str], environment: dict[str, str], logs: Sequence[str], pipes: Sequence[int] = ()) -> int:
    """Start in the current directory as the leader of a new session, with new log files or `pipes`. Raises OSError or ValueError.

    Logs are only ever created: what an earlier run left in their place, a pipe perhaps, is unlinked and never opened.
    """
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    if pipes:
        actions += [(os.POSIX_SPAWN_DUP2, pipe, fd) for fd, pipe in enumerate(pipes, 1)]
    else:
        actions += [(os.POSIX_SPAWN_OPEN, fd, path, _TRUNCATED, 0o644) for fd, path in enumerate(logs, 1)]
    for _ in range(3):
        try:
            return os.posix_spawn(program, argv, environment, file_actions=actions, setsid=True, setsigmask=[], setsigdef=_RESET)
        except FileExistsError:
            for path in logs:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
    raise FileExistsError(errno.EEXIST, "another process keeps making the log files")


def main() -> None:
    """Serve the socket that is given by its number."""
    fd, control, base, home, watch, *groups = sys.argv[1:]
    close_all_but(int(fd))
    os.chdir("/")
    os.umask(0o022)
    if os.geteuid() == 0:
        os.setgroups([])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    become_subreaper()
    if watch:
        hold(watch)
    enter(groups)
    try:
        spawner = Spawner(int(fd), make(control, base, home))
        spawner.serve()
        if watch and spawner.is_idle:
            with contextlib.suppress(OSError):
                os.unlink(watch)
    finally:
        leave(groups)


if __name__ == "__main__":
    main()
