"""The command that a task in a container becomes: what it sees of the node, whom it runs as, what it may not ask for.

A task without admin elevation gets nothing by a container that a plain task of its user has not: it runs as its user's number, without
capabilities and without a way to get any, and of the node's files it is given what its variables name. The runtime that makes its
container is root and goes as far as permissions let it (`podman.HELD`), so it neither enters nor changes what is closed to others.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from batchyard.agent.containers.podman import HELD, Podman, limits
from batchyard.agent.places import beneath
from batchyard.agent.places.layout import Layout, TaskPlace
from batchyard.agent.places.users import User
from batchyard.agent.transfer.failures import USER, Failed, failure
from batchyard.model.common import ContainerSettings
from batchyard.model.words import ContainerHostDataPath, ContainerWorkingDirectory
from batchyard.rules import confined
from batchyard.rules import containers as rules
from batchyard.rules.containers import Bind, NotAllowed

_OF_THE_IMAGE = ("PATH", "LANG")
"""Variables that the agent gives plain tasks and an image has better."""
_TAIL = 4096
_ENGINE = 125
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_SAYS = re.compile(r"(?:time=.*level=(?:error|fatal) msg=|Error: )(.*)")


@dataclass(frozen=True, slots=True)
class Box:
    """A container that is to be made, once."""

    name: str
    image: str
    argv: list[str]
    environment: dict[str, str]
    id_file: str
    """Where the engine writes the container's id."""
    variables_file: str

    def identity(self) -> str | None:
        """Id of the container; None when it was never made."""
        with contextlib.suppress(OSError), open(self.id_file, encoding="ascii") as file:
            return file.read().strip() or None
        return None

    def forget(self) -> None:
        """Remove the files beside it."""
        for path in (self.id_file, self.variables_file):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


@dataclass(frozen=True, slots=True)
class Wish:
    """What an attempt says of its container."""

    attempt: str
    settings: ContainerSettings
    words: Sequence[str]
    """The command line; none for the image's entry point."""
    place: TaskPlace
    user: User
    variables: Mapping[str, str]
    own: frozenset[str]
    """Names of the variables that the task or its job gave."""
    preparation: TaskPlace | None = None


def box(engine: Podman, layout: Layout, wish: Wish, image: str, options: Sequence[str]) -> Box:
    """The container of an attempt, with its files written; `options` are the run options by `allowed`. Raises OSError."""
    admin = wish.user.uid <= 0
    name = name_of(wish)
    files = f"{engine.home}/files/{name}"
    made = Box(name, image, [], engine.environment, f"{files}.id", f"{files}.env")
    made.forget()
    inline = _write_variables(made.variables_file, _variables(wish))
    mounts = [*_mounts(layout, wish)]
    words = ["--runtime", HELD] if engine.root and not admin else []
    words += [
        "run",
        "--rm",
        "--image-volume=ignore",
        "--name",
        name,
        "--cidfile",
        made.id_file,
        "--pull=never",
        "--log-driver=none",
        "--http-proxy=false",
    ]
    words += ["--network=host", "--env-file", made.variables_file, *inline]
    if engine.root:
        words += ["--cgroups=disabled", f"--user={max(wish.user.uid, 0)}:{max(wish.user.group, 0)}"]
        if not admin:
            words += ["--cap-drop=all", "--security-opt=no-new-privileges"]
    for bind in mounts:
        words.append(_mount(bind))
    if not _is_of_image(wish) and _sees_task(wish):
        words.append(f"--workdir={wish.place.working}")
    argv = engine.command(*words, *options, image, *wish.words)
    return Box(made.name, image, argv, made.environment, made.id_file, made.variables_file)


def name_of(wish: Wish) -> str:
    """Of a container: tells its task, and its attempt from every other one."""
    place = wish.place
    task = f"{place.job_id}-{place.task_id}" if place.task_id else "starttask"
    return re.sub(r"[^a-zA-Z0-9_.-]", "-", f"batchyard-{task}-{wish.attempt}")


def allowed(engine: Podman, layout: Layout, words: Sequence[str], wish: Wish) -> list[str]:
    """Run options as the engine gets them. Raises Failed for what this task may not have."""
    admin = wish.user.uid <= 0
    try:
        hard = limits()
        found = rules.options(words, admin=admin, hard=hard)
        binds = found.binds
        if not admin:
            mounts = [*_mounts(layout, wish)]
            binds = [_harmless(bind, mounts) for bind in binds]
            confined.mounts(mounts, binds, found.empty)
            _enter(wish, mounts + binds, found.working)
        mounted = [_mount(_there(engine, bind, admin=admin)) for bind in binds]
    except NotAllowed as error:
        text = "The container run options cannot be passed on"
        raise Failed("preprocessing", failure("ContainerInvalidSettings", text, USER, Message=str(error))) from error
    ulimits = {name: f"{hard[name]}:{hard[name]}" for name in ("nofile", "nproc")} | found.ulimits if found.ulimits else {}
    return [*mounted, *(f"--ulimit={name}={value}" for name, value in ulimits.items()), *found.words]


def _there(engine: Podman, bind: Bind, *, admin: bool) -> Bind:
    """A source that is missing is an empty directory, as Docker makes one; only an administrator's is made where it was named."""
    if os.path.exists(bind.source):
        return bind
    if not admin:
        return Bind(f"{engine.home}/empty", bind.target, True)
    os.makedirs(bind.source)
    return bind


def _harmless(bind: Bind, mounts: Sequence[Bind]) -> Bind:
    """What a task without elevation gets of what it asks for. Raises NotAllowed."""
    own = next((each for each in mounts if each.source == bind.source), None)
    if own is not None:
        return Bind(own.source, bind.target, bind.read_only or own.read_only)
    return _reachable(confined.of_everybody(bind))


def _enter(wish: Wish, mounts: Sequence[Bind], working: str | None) -> None:
    """Refuse a working directory that is on the host and not the task's own, or behind a link. Raises NotAllowed."""
    place = wish.place
    if working is None and (not _sees_task(wish) or _is_of_image(wish)):
        return
    path = confined.working(working or place.working, mounts, place.directory)
    if path is None:
        return
    try:
        with beneath.directory(place.directory, beneath.parts(path)):
            return
    except (OSError, beneath.Outside) as error:
        raise NotAllowed(f"the working directory {(working or place.working)[:200]} is missing or behind a link") from error


def _reachable(bind: Bind) -> Bind:
    """The same with its links followed, if every user could come there by itself and only root can exchange the way. Raises NotAllowed.

    The engine mounts as root, past directories that are closed to the task's user: what is open behind them must stay closed.
    """
    path = os.path.realpath(bind.source)
    above = path
    while above != "/":
        above = os.path.dirname(above)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            _must_be_open(bind.source, above)
    if os.path.islink(path):
        raise NotAllowed(f"{bind.source[:100]} is a link that leads nowhere")
    return Bind(path, bind.target, bind.read_only)


def _must_be_open(source: str, directory: str) -> None:
    """Raises NotAllowed, FileNotFoundError."""
    seen = os.lstat(directory)
    closed = not seen.st_mode & stat.S_IXOTH
    if stat.S_ISLNK(seen.st_mode) or seen.st_uid != 0 or seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or closed:
        why = f"{directory} is not open to every user, or not root's alone"
        raise NotAllowed(f"{source[:100]}: {why}; mounting it needs elevation level admin")


def _mount(bind: Bind) -> str:
    """As one word. Raises NotAllowed for a path that cannot be said in one."""
    if "," in bind.source + bind.target or '"' in bind.source + bind.target:
        raise NotAllowed(f"{bind.source[:100]}: a path must not have commas or quotes")
    return f"--mount=type=bind,source={bind.source},target={bind.target}" + (",readonly" if bind.read_only else "")


def _is_of_image(wish: Wish) -> bool:
    """True when the command begins where the image says."""
    return wish.settings.working_directory is ContainerWorkingDirectory.CONTAINER_IMAGE_DEFAULT


def _sees_task(wish: Wish) -> bool:
    mounts = wish.settings.container_host_batch_bind_mounts
    return mounts is None or any(mount.source is ContainerHostDataPath.TASK for mount in mounts)


def _mounts(layout: Layout, wish: Wish) -> Iterator[Bind]:
    """What the container sees of the node, each at the path which the variables name.

    Without a list that is all that the variables name, for an administrator the whole of the node's directory. The rest is kept from
    others, because the engine's runtime goes into working directories, and makes mount points, as root.
    """
    chosen = wish.settings.container_host_batch_bind_mounts
    if chosen is None and wish.user.uid <= 0:
        yield Bind(layout.root, layout.root, False)
        return
    sources = {
        ContainerHostDataPath.SHARED: layout.shared,
        ContainerHostDataPath.STARTUP: layout.startup,
        ContainerHostDataPath.VFS_MOUNTS: layout.mounts,
        ContainerHostDataPath.TASK: wish.place.directory,
        ContainerHostDataPath.JOB_PREP: None if wish.preparation is None else wish.preparation.directory,
        ContainerHostDataPath.APPLICATIONS: f"{layout.root}/applications",
    }
    wanted = dict.fromkeys(sources, False) if chosen is None else {each.source: bool(each.is_read_only) for each in chosen}
    done: set[str] = set()
    for each, read_only in wanted.items():
        path = sources.get(each) if each is not None else None
        if path is None or path in done or not os.path.isdir(path):
            continue
        done.add(path)
        yield Bind(path, path, read_only)


def _variables(wish: Wish) -> dict[str, str]:
    return {name: value for name, value in wish.variables.items() if name not in _OF_THE_IMAGE or name in wish.own}


def _write_variables(path: str, variables: Mapping[str, str]) -> list[str]:
    """Write variables where only the engine reads them; those that such a file cannot hold are the words of options."""
    inline: list[str] = []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8", newline="\n") as file:
        for name, value in variables.items():
            if "\n" in value or "\r" in value or name.startswith("#") or name != name.strip() or "*" in name:
                inline.append(f"--env={name}={value}")
            else:
                file.write(f"{name}={value}\n")
    return inline


def why(code: int, stderr: str) -> Failed | None:
    """Why a container's command never ran, by the exit code and what the engine wrote last into the task's log; None when it ran."""
    if code not in (_ENGINE, _NOT_EXECUTABLE, _NOT_FOUND):
        return None
    lines = [line for line in _tail(stderr).splitlines() if line.strip()]
    said = _SAYS.match(lines[-1]) if lines else None
    if said is None:
        return None
    text = said[1].strip()[:500]
    if code == _NOT_FOUND:
        return Failed("preprocessing", failure("CommandProgramNotFound", "The specified command program is not found", USER, Message=text))
    if code == _NOT_EXECUTABLE:
        return Failed("preprocessing", failure("CommandLaunchFailed", "The command could not be started", USER, Message=text))
    return Failed("preprocessing", failure("ContainerMiscError", "The container could not be started", USER, Message=text))


def _tail(path: str) -> str:
    with contextlib.suppress(OSError), open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - _TAIL))
        return file.read(_TAIL).decode("utf-8", "replace")
    return ""
