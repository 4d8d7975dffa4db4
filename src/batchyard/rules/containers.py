"""Names of images and their registries, and what a container's run options may ask for (contract 4.8).

A task's run options become words of a command that may run as root, so each is known by name here or refused: what only an
administrator may have, and what would take the container away from its task.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import MappingProxyType

from batchyard.model.common import ContainerRegistry

HUB = "docker.io"
"""The registry of a name without one."""
_HUBS = ("docker.io", "index.docker.io", "registry-1.docker.io")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?:(?P<host>localhost(?::\d+)?|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?::\d+)?|[A-Za-z0-9-]+:\d+|\[[0-9a-fA-F:]+\](?::\d+)?)/)?"
    rf"(?P<path>{_PART}(?:/{_PART})*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?",
    re.ASCII,
)
_LONGEST = 512
_DIGITS = re.compile("[0-9]{1,18}", re.ASCII)


def reference(name: str) -> str:
    """The full name of an image, with its registry and its tag or digest. Raises ValueError for what is no name of an image."""
    found = _NAME.fullmatch(name) if len(name) <= _LONGEST else None
    if found is None:
        raise ValueError("The value is not the name of an image")
    host, path, tag, digest = found.group("host", "path", "tag", "digest")
    host = HUB if host is None or host in _HUBS else host
    if host == HUB and "/" not in path:
        path = f"library/{path}"
    return f"{host}/{path}" + (f"@{digest}" if digest else f":{tag or 'latest'}")


def registry_host(server: str | None) -> str:
    """Host and port of a registry as clients write it, which may be a URL."""
    host = (server or HUB).partition("://")[2] or (server or HUB)
    host = host.partition("/")[0]
    return HUB if host in _HUBS else host


def host_of(image: str) -> str:
    """The registry of a full name."""
    return image.partition("/")[0]


def is_loopback(host: str) -> bool:
    """True for a registry of this machine, which may speak plain HTTP, as Docker has it."""
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    if name == "localhost":
        return True
    try:
        return ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def login(image: str, own: ContainerRegistry | None, of_pool: Sequence[ContainerRegistry]) -> ContainerRegistry | None:
    """Whose user and password an image is pulled with: the task's registry, else the pool's of that host."""
    candidates = ([own] if own is not None else []) + [*of_pool]
    return next((each for each in candidates if each.username and registry_host(each.registry_server) == host_of(image)), None)


class NotAllowed(ValueError):
    """A run option that the task may not have; says which and why."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory or file of the node that a container is to see."""

    source: str
    target: str
    read_only: bool


@dataclass(slots=True)
class Options:
    """Run options as they are passed on, without the binds, which are looked at first."""

    words: list[str] = field(default_factory=list)
    binds: list[Bind] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    """Where directories in memory are mounted."""
    working: str | None = None
    """The working directory, which is among the words too."""
    ulimits: dict[str, str] = field(default_factory=dict)
    """Soft and hard limit by name, which are not among the words."""


_SHORT = {
    "-e": "--env",
    "-w": "--workdir",
    "-h": "--hostname",
    "-m": "--memory",
    "-c": "--cpu-shares",
    "-l": "--label",
    "-v": "--volume",
    "-u": "--user",
    "-i": "--interactive",
    "-t": "--tty",
    "-d": "--detach",
    "-a": "--attach",
    "-P": "--publish-all",
    "-p": "--publish",
}
_IDLE = frozenset({"--rm", "--interactive", "--tty"})
"""Without effect here: the container is removed with its run, and its output goes to the task's files."""
_ALONE = frozenset({"--init", "--read-only", "--no-healthcheck", "--oom-kill-disable"})
_FREE = frozenset(
    {
        "--add-host",
        "--cap-drop",
        "--dns",
        "--dns-option",
        "--dns-search",
        "--entrypoint",
        "--env",
        "--hostname",
        "--label",
        "--platform",
        "--shm-size",
        "--stop-signal",
        "--stop-timeout",
        "--workdir",
    }
)
_CHOICES = {
    "--network": ("host", "none"),
    "--ipc": ("host", "private", "none"),
    "--security-opt": ("no-new-privileges", "no-new-privileges:true"),
    "--gpus": ("all",),
}
"""What everybody may choose: what a plain task has anyway, or less."""
_ADMIN_ALONE = frozenset({"--privileged"})
_ADMIN = frozenset(
    {
        "--annotation",
        "--cap-add",
        "--cgroupns",
        "--device",
        "--device-cgroup-rule",
        "--device-read-bps",
        "--device-write-bps",
        "--group-add",
        "--ipc",
        "--network",
        "--publish",
        "--security-opt",
        "--sysctl",
        "--user",
        "--userns",
        "--uts",
    }
)
_LIMITS = frozenset(
    {
        "--cpus",
        "--cpu-shares",
        "--cpu-quota",
        "--cpu-period",
        "--cpuset-cpus",
        "--memory",
        "--memory-swap",
        "--memory-reservation",
        "--pids-limit",
    }
)
"""Taken and not acted upon: a container is held to what its node is held to, as plain tasks are."""


_ULIMITS = frozenset({"core", "cpu", "data", "fsize", "msgqueue", "nofile", "nproc", "rss", "sigpending", "stack"})
_ULIMITS_OF_ADMIN = frozenset({"memlock", "nice", "rtprio", "rttime"})
"""What takes cores or memory from others of the machine."""


def options(words: Sequence[str], *, admin: bool, hard: Mapping[str, int] = MappingProxyType({})) -> Options:
    """Run options of a task, in which `admin` may have everything but what takes the container away from the task. Raises NotAllowed.

    `hard` are the limits of the one who makes the container, by their names; what is asked for beyond becomes these.
    """
    found = Options()
    for name, value in _named(words):
        if name in _IDLE or name in _LIMITS:
            continue
        if name == "--volume":
            found.binds.append(_volume(value))
        elif name == "--mount":
            _mount(value, found)
        elif name == "--tmpfs":
            found.empty.append(_absolute(name, value.partition(":")[0]))
            found.words.append(f"{name}={value}")
        elif name == "--ulimit":
            kind, limits = _ulimit(value, admin, hard)
            found.ulimits[kind] = limits
        elif name in _CHOICES and value in _CHOICES[name]:
            found.words += ["--device", "nvidia.com/gpu=all"] if name == "--gpus" else [f"{name}={value}"]
        elif name in _ALONE or (name in _ADMIN_ALONE and admin):
            found.words.append(name if value in ("", "true") else f"{name}={value}")
        elif name in _FREE or (name in _ADMIN and admin):
            found.working = _absolute(name, value) if name == "--workdir" else found.working
            found.words.append(f"{name}={value}")
        elif name in _ADMIN | _ADMIN_ALONE or name in _CHOICES:
            what = f"{name}={value}"[:100] if value else name
            raise NotAllowed(f"{what} is for tasks with elevation level admin only")
        else:
            raise NotAllowed(f"{name[:100]} is not among the run options that are passed on")
    return found


def _named(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options by their long names, with their values; an option alone has an empty one."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word in ("-", "--"):
            raise NotAllowed(f"{word[:100]!r} is no run option")
        name, equals, value = word.partition("=")
        name = "--network" if name == "--net" else name
        if not name.startswith("--"):
            if name not in _SHORT:  # -it, -v/a:/b
                yield from _cluster(word)
                continue
            name = _SHORT[name]
        if not equals and name not in _IDLE | _ALONE | _ADMIN_ALONE | {"--detach", "--publish-all"}:
            value = next(rest, "")
            if not value:
                raise NotAllowed(f"{name} needs a value")
        yield name, value


def _cluster(word: str) -> Iterator[tuple[str, str]]:
    letters = word[1:]
    while letters:
        name = _SHORT.get(f"-{letters[0]}")
        if name is None:
            raise NotAllowed(f"{word[:100]} is not among the run options that are passed on")
        letters = letters[1:]
        if name in _IDLE:
            yield name, ""
        else:
            yield name, letters.removeprefix("=")
            return


def _absolute(name: str, path: str) -> str:
    if not path.startswith("/"):
        raise NotAllowed(f"{name}={path[:100]}: the path must be absolute")
    return path


def _ulimit(value: str, admin: bool, hard: Mapping[str, int]) -> tuple[str, str]:
    """Name, and `soft:hard` within what there is to give."""
    name, _, limits = value.partition("=")
    if name in _ULIMITS_OF_ADMIN and not admin:
        raise NotAllowed(f"--ulimit={value[:100]} is for tasks with elevation level admin only")
    given = [_number(each) for each in limits.split(":")]
    if name not in _ULIMITS | _ULIMITS_OF_ADMIN or len(given) > 2 or None in given:
        raise NotAllowed(f"--ulimit={value[:100]} is no limit; it is written as nofile=1024:2048")
    most = hard.get(name, -1)
    low, high = (_least(each, most) for each in (given[0], given[-1]))
    return name, f"{_least(low, high)}:{high}"


def _number(text: str) -> int | None:
    """Of a limit; -1 for none at all, None for what is no number."""
    if text in ("-1", "unlimited"):
        return -1
    return int(text) if _DIGITS.fullmatch(text) else None


def _least(one: int | None, other: int) -> int:
    """The lower one of two limits, of which -1 is higher than all."""
    return other if one is None or one == -1 else one if other == -1 else min(one, other)


def _volume(value: str) -> Bind:
    """`source:target[:options]`; a named volume would outlive the task."""
    source, _, rest = value.partition(":")
    target, _, flags = rest.partition(":")
    given = [flag for flag in flags.split(",") if flag]
    if not (source.startswith("/") and target.startswith("/")):
        raise NotAllowed(f"--volume={value[:100]}: source and target must be absolute paths")
    return Bind(source, target, _read_only(f"--volume={value[:100]}", given))


def _read_only(what: str, flags: Sequence[str]) -> bool:
    for flag in flags:
        if flag not in ("ro", "rw", "z", "Z", "rprivate", "private"):
            raise NotAllowed(f"{what}: the only options are ro and rw")
    return "ro" in flags


def _mount(value: str, found: Options) -> None:
    parts = dict(part.partition("=")[::2] for part in value.split(","))
    what = f"--mount={value[:100]}"
    kind = parts.pop("type", "volume")
    source = parts.pop("source", parts.pop("src", ""))
    target = parts.pop("destination", parts.pop("target", parts.pop("dst", "")))
    if kind == "tmpfs" and target.startswith("/") and not source and set(parts) <= {"tmpfs-size", "tmpfs-mode"}:
        found.empty.append(target)
        found.words.append(f"--mount={value}")
        return
    if kind != "bind" or not (source.startswith("/") and target.startswith("/")) or "," in source + target:
        raise NotAllowed(f"{what}: the only types are bind, with absolute paths, and tmpfs")
    read_only = [parts.pop(name) for name in ("readonly", "ro") if name in parts]
    if parts:
        raise NotAllowed(f"{what}: {next(iter(parts))[:100]} is not among its options")
    found.binds.append(Bind(source, target, any(each in ("", "true", "1") for each in read_only)))
