"""`batchyard join`: this machine becomes a node of a server elsewhere; and the tokens that allow it."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchyard.cli import lists, output, where
from batchyard.cli.client import Client
from batchyard.cli.layout import Column
from batchyard.cli.problem import Problem, Usage

_UNIT = """\
# A node of Batchyard: /etc/systemd/system/batchyard-node.service, then: systemctl daemon-reload && systemctl enable --now batchyard-node
[Unit]
Description=Batchyard node {node} of pool {pool}
After=network-online.target time-sync.target
Wants=network-online.target

[Service]
Type=exec
ExecStart={command}
# An agent that the server no longer wants ends with 0 and stays away.
Restart=on-failure
RestartSec=5
# Tasks that run when the agent is killed are found again by the next one.
KillMode=process
TimeoutStopSec=90
Delegate=yes
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=1048576

[Install]
WantedBy=multi-user.target
"""
_NAME = "batchyard-node.service"
_V1 = ("batchyard", "v1", "pools")


def join(
    *,
    server: str | None,
    token: str | None,
    home: Path | None,
    pool: str | None,
    ca_file: Path | None,
    insecure: bool,
    systemd: bool,
    install: Path | None,
) -> int:
    """Join a pool, or go on as the node that this machine is, and run its agent."""
    from batchyard.agent.talk import join as joining

    place = (home or _default_home()).resolve()
    try:
        found = joining.about(place)
        given = _token(token)
        if given is not None and (found is None or found.token_id != given.id):
            if server is None:
                raise Usage("SERVER is missing: batchyard join https://host:8777 --token TOKEN")
            found = joining.join(server, given, place, pool=pool, ca_file=ca_file, insecure=insecure)
            print(f"Joined pool {found.pool} of {found.server} as node {found.node}.", file=sys.stderr)
    except joining.NotJoined as error:
        raise Problem(str(error)) from None
    if found is None:
        raise Problem(f"{place} is no node yet; join with: batchyard join https://host:8777 --token TOKEN")
    if systemd or install is not None:
        words = [sys.executable, "-P", "-m", "batchyard.cli.main", "join", "--home", str(place)]
        unit = _UNIT.format(node=found.node, pool=found.pool, command=" ".join(map(_quoted, words)))
        if install is None:
            print(unit, end="")
        else:
            print(_installed(unit, install / _NAME if install.is_dir() else install))
        return 0
    from batchyard.agent.main import main as run

    words = ["--server", found.server, "--root", str(place / "root"), "--token-file", str(place / joining.TOKEN)]
    return run([*words, *(["--ca-file", found.authority] if found.authority else [])])


def _installed(unit: str, path: Path) -> Path:
    """Write the unit, all of it or nothing; the file. Raises Problem."""
    part = path.with_name(f".{path.name}.part")
    try:
        with contextlib.suppress(FileNotFoundError):
            if not path.read_text(errors="replace").startswith(_UNIT.split("\n", 1)[0]):
                raise Problem(f"{path} is there and not a unit of this command; remove it, or name another file")
        part.write_text(unit)
        part.chmod(0o644)
        part.replace(path)
    except OSError as error:
        raise Problem(f"cannot write {path} ({error.strerror})") from None
    print(f"Start it with: systemctl daemon-reload && systemctl enable --now {path.stem}", file=sys.stderr)
    return path


def _quoted(word: str) -> str:
    """A word of a unit's command line."""
    return shlex.quote(word).replace("%", "%%").replace("$", "$$")


def _default_home() -> Path:
    return Path("/var/lib/batchyard-node") if os.geteuid() == 0 else Path.home() / ".local/share/batchyard-node"


def _token(given: str | None) -> Any:
    """A token that was given, or stands on stdin for -. Raises Usage."""
    from batchyard.model import joining

    if given is None:
        return None
    found = joining.read(sys.stdin.readline().strip() if given == "-" else given.strip())
    if found is None:
        raise Usage("--token is no join token; batchyard pool join-token POOL makes one")
    return found


def make(batch: Client, *, pool: str, uses: int, expires: str, shown: Mapping[str, Any]) -> None:
    """Make a join token and print the line for the machine that is to join."""
    seconds = where.seconds(expires)
    if seconds is None or seconds < 1:
        raise Usage(f"--expires is a span of time as 90s, 30m, 1h or 2d; it got {expires!r}")
    found = batch.post(*_V1, pool, "jointokens", body={"uses": uses, "expiresInSeconds": int(seconds)})
    if shown["output"] == "table" and not shown["query"]:
        print(f"batchyard join {found['server']} --token {found['token']}")
    else:
        output.entries([found], COLUMNS, shown)


def tokens(batch: Client, *, pool: str, shown: Mapping[str, Any]) -> None:
    """List the join tokens of a pool."""
    lists.simple(batch, COLUMNS, shown, *_V1, pool, "jointokens")


def revoke(batch: Client, *, pool: str, tokens: list[str]) -> None:
    """Have join tokens be good for nothing."""
    for token in tokens:
        batch.delete(*_V1, pool, "jointokens", token)
        print(f"revoked {token}")


COLUMNS = (
    Column("ID", lambda token, now: token["id"]),
    Column("STATE", lambda token, now: token["state"]),
    Column("USES LEFT", lambda token, now: f"{token['usesLeft']} of {token['uses']}"),
    Column("EXPIRES", lambda token, now: token["expiryTime"]),
)
