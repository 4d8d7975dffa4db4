"""Every setting of a server, once: the command line's options, the variables, the keys of the file and their documentation are made of it.

Nothing is imported here that takes time, because every start of a command reads it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

FILE = "batchyard.toml"
"""The configuration file of a state directory, where no other one is named."""
PREFIX = "BATCHYARD_"
ELSEWHERE = ("DIR", "CONFIG")
"""Variables that are read before there is a configuration."""


class Setting(NamedTuple):
    """What a server can be told."""

    name: str
    """The key in the file; with other letters the option and the variable."""
    help: str
    kind: str = "text"
    """text, path, whole number, number, switch, choice, or tls."""
    default: Any = None
    metavar: str = ""
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    many: bool = False
    """A list in the file, an option that may be repeated, a variable with commas."""
    secret: bool = False
    """Its value is never shown."""
    shown: str = ""
    """What is said of the default where its value says nothing."""

    @property
    def flag(self) -> str:
        """The option of `up` and `serve`."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def off(self) -> str:
        """The option that turns a switch off."""
        return f"--no-{self.flag.removeprefix('--')}"

    def word(self, value: Any) -> str:
        """The option that says a value."""
        return self.off if self.kind == "switch" and not value else self.flag

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()


SETTINGS: tuple[Setting, ...] = (
    Setting("host", "Address to listen on.", default="127.0.0.1", metavar="ADDRESS"),
    Setting("port", "Port to listen on; 0 takes a free one.", "whole number", 8777, "N", low=0, high=65535),
    Setting("queue_port", "Port of the Queue service alone; 0 takes a free one.", "whole number", metavar="N", low=0, high=65535),
    Setting("table_port", "Port at which tables are refused; 0 takes a free one.", "whole number", metavar="N", low=0, high=65535),
    Setting("nodes", "How many local nodes there may be at once.", "whole number", 8, "N", low=0),
    Setting("database", "PostgreSQL database of the accounts, which several servers may share; no password here.", metavar="URL"),
    Setting("blobs", "Directory of all accounts' blobs; servers that share a database all have to see it.", "path", metavar="DIR"),
    Setting("advertise", "URL by which other servers and agents reach this one.", metavar="URL"),
    Setting("lease", "How long a server that vanished keeps others from its background work.", "number", 6.0, "SECONDS", low=1, high=60),
    Setting("drain", "How long a server that was told to stop goes on answering.", "number", 0.0, "SECONDS", low=0, high=600),
    Setting("provider", "local: agents on this machine; external: you start the agents.", "choice", "local", choices=("local", "external")),
    Setting(
        "network",
        "host: local nodes share this machine's address; namespaces: each has its own (root only).",
        "choice",
        "host",
        choices=("host", "namespaces"),
    ),
    Setting("network_range", "Addresses of this machine that networks of nodes may take.", default="10.213.0.0/16", metavar="NETWORK"),
    Setting(
        "tls",
        "auto: encrypt with a certificate of the server's own authority; CERT KEY: with that of two PEM files; off: plain HTTP.",
        "tls",
        "off",
        "auto|off|CERT KEY",
        choices=("auto", "off"),
    ),
    Setting("tls_authority", "Authority of the certificate in CERT, where clients do not know it anyway.", "path", metavar="FILE"),
    Setting("name", "Name or address that clients reach the server by: in URLs and certificate.", metavar="NAME", many=True),
    Setting("domain", "Accounts are reached by ACCOUNT.REGION.DOMAIN, storage by ACCOUNT.blob.DOMAIN, .dfs., .queue.", metavar="DOMAIN"),
    Setting("region", "Stands in the host names of accounts.", default="local", metavar="REGION"),
    Setting("insecure", "Allow plain HTTP on an address that others can reach.", "switch", False),
    Setting("trusted_proxy", "Proxy whose X-Forwarded headers count: an IP address or network.", metavar="ADDRESS", many=True),
    Setting("public_access", "Let accounts open containers, and a website, to readers without a key.", "switch", False),
    Setting("copy_network", "Network or address, not public, that copies from other servers may reach.", metavar="NETWORK", many=True),
    Setting("metrics", "Where Prometheus finds /metrics; a port alone is one of 127.0.0.1.", metavar="[ADDRESS:]PORT"),
    Setting("node_silence", "How long a node may say nothing before its tasks run elsewhere.", "number", 60.0, "SECONDS", low=1),
    Setting("node_join", "How long the agent of a launched node may take to its first word.", "number", 600.0, "SECONDS", low=1),
    Setting("autoscale_min_interval", "Shortest interval between evaluations that a pool may ask for.", "number", 300.0, "SECONDS", low=1),
    Setting("autoscale_on_demand", "Evaluate autoscale formulas also as soon as tasks come or go.", "switch", False),
    Setting("package_gb", "Most gigabytes that an application package may hold, unpacked.", "number", 4.0, "GB", low=0.001, high=1000),
    Setting("package_entries", "Most files that an application package may hold.", "whole number", 100_000, "N", low=1, high=10_000_000),
    Setting("probes", "Programs that say whether a local node is fit for tasks.", "path", metavar="DIR"),
    Setting("chaos", "Let `batchyard chaos` disturb nodes; for trials only.", "switch", False),
    Setting("test_clock", "Let a test move the server's clock.", "switch", False),
)
