"""What a server is told at its start, and what a configuration file says of sizes and quotas; `effective` puts both together."""

from __future__ import annotations

import contextlib
import difflib
import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from batchyard.rules.amounts import AMOUNT, SMALLEST, amount_bytes
from batchyard.rules.offer import AZURE, Offer, Quotas
from batchyard.rules.sizes import LOCAL, MOST_SLOTS, SizeRule, Sizes, azure_size

DEFAULT_PORT = 8777
PROVIDERS = (LOCAL,)
"""Providers that a size may name."""
_NAME = re.compile(r"(?=.{1,253}$)(\*\.)?[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII)
_SCHEMA = re.compile(r"[a-z][a-z0-9_]{0,22}", re.ASCII)
"""Those of accounts and of their blobs are longer, and PostgreSQL takes 63."""
_HEADER = re.compile(r"\s*\[{1,2}\s*([^\[\]]+?)\s*\]{1,2}\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*(["']?)([\w-]+)\1\s*[=.]""")
_PLACE = re.compile(r"(\w+)(?:\[(\d+)\])?(?:\.(\w+).*)?")


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
    queue_port: int | None = None
    """Port of the Queue service alone; 0 takes a free one."""
    table_port: int | None = None
    """Port at which the Table service is refused."""
    former_port: int = 0
    """With port 0: the one to take if it is free, because a server that was killed had it and its agents look for it there."""
    max_nodes: int = 8
    """Local nodes that may exist at once."""
    test_clock: bool = False
    """Let clients move the clock; for tests only."""
    insecure: bool = False
    """Listen on another address than loopback without TLS."""
    tls: str | tuple[Path, Path] = "off"
    """`auto`, `off`, or the files of certificate and key."""
    tls_authority: Path | None = None
    """The authority of a given certificate, where clients have to be told of it."""
    names: tuple[str, ...] = ()
    """Names and addresses of the server; the first that is no pattern stands in URLs for others."""
    domain: str | None = None
    """Domain of the accounts' host names."""
    region: str = "local"
    """Stands in the host names of Batch accounts."""
    proxies: tuple[str, ...] = ()
    """Addresses and networks of proxies whose word counts on who the client is and whether it came by HTTPS."""
    copy_networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    """Networks that copies from other servers may reach besides public addresses."""
    public_access: bool = False
    """Accounts may open containers, and a website, to readers without a key."""
    offer: Offer = AZURE
    """Sizes and quotas of the account."""
    node_silence_s: float = 60.0
    """How long a node may say nothing before its tasks run elsewhere."""
    chaos: bool = False
    """Let clients disturb nodes on demand; for trials only."""
    probes: Path | None = None
    """Directory of the operator's programs that say whether a local node is fit for tasks."""
    database: str | None = None
    """URL of the PostgreSQL database of the accounts; None where they lie in the directory."""
    blobs: Path | None = None
    """Directory of all accounts' blobs; None: each has its own."""
    advertise: str | None = None
    """URL by which other servers and agents reach this one."""
    lease_s: float = 6.0
    """How long a server that vanished keeps the others from its background work."""
    drain_s: float = 0.0
    """How long a server that was told to stop goes on answering."""
    metrics: tuple[str, int] | None = None
    """Address and port of the metrics; None: there are none."""
    package_limits: tuple[int, int] = (4 << 30, 100_000)
    """Bytes and entries that an application package may have."""
    external_nodes: bool = False
    """Nodes are made of agents that somebody else starts, and not of agents on this machine."""
    node_join_s: float = 600.0
    """How long a launched node's agent may take to its first word, before the node is stopped and launched again."""
    namespaces: bool = False
    """Each local node has a network namespace of its own."""
    network_range: str = "10.213.0.0/16"
    """Where its addresses are taken from."""
    gateway: str | None = None
    """This machine's address in the network of its nodes, once that is there."""
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
    """What the file says beside the settings of `batchyard.settings`."""

    quotas: Quotas = Quotas()
    sizes: list[_Size] = []
    enforce_sizes: bool = False


def proxy(text: str) -> str:
    """The address or network of a proxy. Raises Misconfigured: a name may stand for others tomorrow, and `*` for everybody."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise Misconfigured(f"--trusted-proxy takes an IP address or a network such as 10.1.2.0/24: {error}") from None


def host_name(text: str) -> str:
    """A name or an address that clients may know a server by, in lower case. Raises Misconfigured."""
    name = text.lower()
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name))
    if not _NAME.fullmatch(name):
        raise Misconfigured(f"{text[:64]!r} is no host name and no IP address")
    return name


def address(text: str) -> str:
    """A port, or an address and a port. Raises Misconfigured."""
    _address(text)
    return text


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    with contextlib.suppress(ValueError):
        if port.isascii() and port.isdigit() and 0 < int(port) < 65_536:
            return str(ipaddress.ip_address(host)), int(port)
    raise Misconfigured(f"{text[:64]!r} is neither a port nor ADDRESS:PORT, as 9100 or 10.1.2.3:9100")


def domain(text: str) -> str:
    """A domain or a label of one, in lower case. Raises Misconfigured."""
    if text.startswith("*") or not _NAME.fullmatch(text.lower()):
        raise Misconfigured(f"{text[:64]!r} is no name of letters, digits, hyphens and dots")
    return text.lower()


def database(text: str) -> str:
    """The URL of a PostgreSQL database. Raises Misconfigured, which repeats nothing of what may hold a password."""
    parts = urlsplit(text)
    if not text.startswith(("postgres://", "postgresql://")):
        raise Misconfigured("the database is the URL of a PostgreSQL one, as postgresql://user@host/database")
    schemas = [value for name, value in parse_qsl(parts.query) if name == "schema"]
    if len(schemas) > 1 or not all(_SCHEMA.fullmatch(name) for name in schemas):
        raise Misconfigured("the schema of a database is up to 23 small letters, digits and underscores, and begins with a letter")
    return text


def has_password(url: str) -> bool:
    """True for the URL of a database that says a password."""
    parts = urlsplit(url)
    return ":" in parts.netloc.rpartition("@")[0] or any(name in ("password", "sslpassword") for name, _ in parse_qsl(parts.query))


def url(text: str) -> str:
    """The URL of a server, without a slash at its end. Raises Misconfigured."""
    try:
        parts = urlsplit(text)
        named, _ = parts.hostname, parts.port
    except ValueError:
        named = None
    if not named or parts.scheme not in ("http", "https") or parts.path.strip("/") or parts.query or parts.username:
        raise Misconfigured(f"{text[:64]!r} is no URL of a server, as https://host:8777")
    return text.rstrip("/")


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Misconfigured(f"{text[:64]!r} is no IP address and no network") from None


def network_range(text: str) -> str:
    """A network of private IPv4 addresses with room for nodes. Raises Misconfigured."""
    found = _network(text)
    if not isinstance(found, ipaddress.IPv4Network) or not found.is_private or found.is_loopback or found.prefixlen > 24:
        raise Misconfigured(f"{text[:64]!r} is no network of private IPv4 addresses with at least 256 of them, as 10.213.0.0/16")
    return str(found)


def _probes(path: Path | None) -> Path | None:
    """The directory of probes. Raises Misconfigured."""
    if path is not None and not path.is_dir():
        raise Misconfigured(f"{path} is no directory; --probes names one with programs")
    return None if path is None else path.resolve()


def of(directory: Path, values: Mapping[str, Any], offer: Offer) -> Config:
    """The configuration that checked values of all settings make. Raises Misconfigured."""
    return Config(
        directory=directory,
        host=values["host"],
        port=values["port"],
        queue_port=values["queue_port"],
        table_port=values["table_port"],
        max_nodes=values["nodes"],
        test_clock=values["test_clock"],
        insecure=values["insecure"],
        tls=values["tls"],
        tls_authority=values["tls_authority"],
        names=values["name"],
        domain=values["domain"],
        region=values["region"],
        proxies=values["trusted_proxy"],
        offer=offer,
        node_silence_s=values["node_silence"],
        chaos=values["chaos"],
        public_access=values["public_access"],
        copy_networks=tuple(map(_network, values["copy_network"])),
        probes=_probes(values["probes"]),
        database=values["database"],
        blobs=None if values["blobs"] is None else values["blobs"].resolve(),
        advertise=values["advertise"],
        lease_s=values["lease"],
        drain_s=values["drain"],
        metrics=None if values["metrics"] is None else _address(values["metrics"]),
        package_limits=(int(values["package_gb"] * (1 << 30)), values["package_entries"]),
        external_nodes=values["provider"] == "external",
        node_join_s=values["node_join"],
        namespaces=values["network"] == "namespaces",
        network_range=values["network_range"],
        autoscale_min_interval_s=values["autoscale_min_interval"],
        autoscale_on_demand=values["autoscale_on_demand"],
    )


def read(path: Path) -> tuple[dict[str, Any], str]:
    """What a configuration file holds, and its text. Raises Misconfigured."""
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text), text
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} is not TOML: {error}") from None


def offer(path: Path | None, found: Mapping[str, Any], text: str) -> Offer:
    """What a configuration file offers; Azure's sizes without one. Raises Misconfigured."""
    if path is None:
        return AZURE
    try:
        file = msgspec.convert({name: found[name] for name in _File.__struct_fields__ if name in found}, _File)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"{path}{_said(str(error), text)}") from None
    for name in Quotas.__struct_fields__:
        if (getattr(file.quotas, name) or 0) < 0:
            raise Misconfigured(f"{path} line {line(text, 'quotas', name)}: quotas.{name} must not be negative")
    rules = []
    for number, size in enumerate(file.sizes, 1):
        try:
            rules.append(_rule(size))
        except ValueError as error:
            at = line(text, "sizes", "", number)
            raise Misconfigured(f"{path} line {at}: [[sizes]] number {number} ({size.name}): {error}") from None
    return Offer(sizes=Sizes(tuple(rules), enforce=file.enforce_sizes), quotas=file.quotas)


def line(text: str, table: str, key: str, number: int = 1) -> int:
    """Line of a key in the `number`th table of a name, of the table itself without a key; 0 where it is written otherwise."""
    at, seen = "", 0
    for count, words in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(words):
            at = header[1]
            seen += at == table
            if (at == table and seen == number and not key) or (not table and at == key):
                return count
        elif key and at == table and (not table or seen == number) and (name := _KEY.match(words)) and name[2] == key:
            return count
    return 0


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
    try:
        if isinstance(amount, int) and amount >= SMALLEST:
            return amount
        return amount_bytes(str(amount))
    except ValueError:
        raise ValueError(f"{setting} is {AMOUNT}, not {amount!r}") from None


def _said(text: str, file: str) -> str:
    """A validation error in the words of the file, behind the line where it is."""
    reason, _, where = text.partition(" - at `$")
    where = where.strip("`").lstrip(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.+)`", reason)
    missing = re.fullmatch(r"Object missing required field `(.+)`", reason)
    table, number, key = _PLACE.fullmatch(where).groups() if _PLACE.fullmatch(where) else (where, None, None)  # type: ignore[union-attr]
    count = int(number or 0) + 1
    at = line(file, table, unknown[1] if unknown else key or "", count) or line(file, table, "", count) or line(file, "", table)
    begin = f" line {at}: " if at else ": "
    if unknown:
        known = (_Size if table == "sizes" else Quotas).__struct_fields__
        likely = difflib.get_close_matches(unknown[1], known, 1)
        return f"{begin}there is no setting {unknown[1]} in {where}{f'; did you mean {likely[0]}?' if likely else ''}"
    if missing:
        return f"{begin}{where} needs {missing[1]}"
    return f"{begin}{where}: {reason[0].lower()}{reason[1:]}"
