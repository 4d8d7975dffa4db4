"""Settings of a server: the command line fills them in, and a TOML file says what sizes mean and what the quotas are."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from batchyard.rules.offer import AZURE, Offer, Quotas
from batchyard.rules.sizes import GIB, LOCAL, MOST_SLOTS, SizeRule, Sizes, azure_size

DEFAULT_PORT = 8777
PROVIDERS = (LOCAL,)
"""Providers that a size may name."""
_UNITS = {"B": 1, "KIB": 1024, "MIB": 1024**2, "GIB": GIB, "TIB": 1024 * GIB, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([a-zA-Z]+)", re.ASCII)


class Misconfigured(Exception):
    """The configuration file cannot be used; the message is a sentence that says where and why."""


@dataclass(frozen=True)
class Config:
    """What one server is told at its start."""

    directory: Path
    """All state of the server lives here."""
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    """0 takes a free one."""
    former_port: int = 0
    """With port 0: the one to take if it is free, because a server that was killed had it and its agents look for it there."""
    max_nodes: int = 8
    """Local nodes that may exist at once."""
    test_clock: bool = False
    """Let clients move the clock; for tests only."""
    insecure: bool = False
    """Listen on another address than loopback without TLS."""
    proxies: tuple[str, ...] = ()
    """Addresses and networks of proxies whose word counts on who the client is and whether it came by HTTPS."""
    offer: Offer = AZURE
    """Sizes and quotas of the account."""
    node_silence_s: float = 60.0
    """How long a node may say nothing before its tasks run elsewhere."""
    chaos: bool = False
    """Let clients disturb nodes on demand; for trials only."""
    probes: Path | None = None
    """Directory of the operator's programs that say whether a local node is fit for tasks."""
    external_nodes: bool = False
    """Nodes are made of agents that somebody else starts, and not of agents on this machine."""
    node_join_s: float = 600.0
    """How long a launched node's agent may take to its first word, before the node is stopped and launched again."""
    autoscale_min_interval_s: float = 300.0
    """The shortest autoScaleEvaluationInterval that is accepted."""
    autoscale_on_demand: bool = False
    """Evaluate autoscale formulas also when the number of pending tasks has changed."""


class _Size(msgspec.Struct, forbid_unknown_fields=True):
    """A `[[sizes]]` table of the file."""

    name: str
    cores: int | None = None
    memory: str | int | None = None
    max_slots: int | None = None
    task_disk: str | int | None = None
    provider: str = LOCAL
    labels: dict[str, str] = {}
    enforce: bool = False


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file."""

    quotas: Quotas = Quotas()
    sizes: list[_Size] = []
    enforce_sizes: bool = False


def proxy(text: str) -> str:
    """The address or network of a proxy. Raises Misconfigured: a name may stand for others tomorrow, and `*` for everybody."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise Misconfigured(f"--trusted-proxy takes an IP address or a network such as 10.1.2.0/24: {error}") from None


def load(path: Path) -> Offer:
    """What a configuration file offers. Raises Misconfigured."""
    try:
        text = path.read_text(encoding="utf-8")
        found = msgspec.convert(tomllib.loads(text), _File)
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} is not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise Misconfigured(f"{path}: {_said(str(error))}") from None
    for name in Quotas.__struct_fields__:
        if (getattr(found.quotas, name) or 0) < 0:
            raise Misconfigured(f"{path}: quotas.{name} must not be negative")
    rules = []
    for number, size in enumerate(found.sizes, 1):
        try:
            rules.append(_rule(size))
        except ValueError as error:
            raise Misconfigured(f"{path}: [[sizes]] number {number} ({size.name}): {error}") from None
    return Offer(sizes=Sizes(tuple(rules), enforce=found.enforce_sizes), quotas=found.quotas)


def _rule(size: _Size) -> SizeRule:
    """A size as the rules know it. Raises ValueError with what is wrong."""
    if not re.fullmatch(r"[A-Za-z0-9_.*?-]{1,64}", size.name, re.ASCII):
        raise ValueError("a name is 1 to 64 letters, digits, hyphens, dots and underscores, and * and ? in a pattern")
    pattern = "*" in size.name or "?" in size.name
    if size.cores is None and not pattern and azure_size(size.name.lower()) is None:
        raise ValueError("Azure has no size of this name, so cores must be given")
    if size.cores is not None and not 1 <= size.cores <= 100_000:
        raise ValueError("cores must be between 1 and 100000")
    if size.max_slots is not None and not 1 <= size.max_slots <= MOST_SLOTS:
        raise ValueError(f"max_slots must be between 1 and {MOST_SLOTS}")
    if size.provider not in PROVIDERS:
        raise ValueError(f"there is no provider {size.provider}; known: {', '.join(PROVIDERS)}")
    memory = None if size.memory is None else _bytes("memory", size.memory)
    task_disk = 0 if size.task_disk is None else _bytes("task_disk", size.task_disk)
    return SizeRule(size.name, size.cores, memory, size.max_slots, task_disk, size.provider, size.labels, size.enforce)


def _bytes(setting: str, amount: str | int) -> int:
    """Bytes of `4 GiB`, `512 MiB` or a plain number. Raises ValueError."""
    match = _AMOUNT.fullmatch(amount.strip()) if isinstance(amount, str) else None
    unit = _UNITS.get(match[2].upper()) if match else None
    size = amount if isinstance(amount, int) else int(float(match[1]) * unit) if match and unit else 0
    if size < 1024**2:
        raise ValueError(f"{setting} is an amount of at least 1 MiB such as '4 GiB', not {amount!r}")
    return size


def _said(text: str) -> str:
    """A validation error in the words of the file."""
    reason, _, where = text.partition(" - at `$")
    where = where.strip("`").lstrip(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.+)`", reason)
    missing = re.fullmatch(r"Object missing required field `(.+)`", reason)
    if unknown:
        return f"there is no setting {unknown[1]}{f' in {where}' if where else ''}"
    if missing:
        return f"{where} needs {missing[1]}"
    return f"{where}: {reason[0].lower()}{reason[1:]}"
