"""`batchyard node user` on a live node, as root: real accounts of this machine, which the test removes again."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Cli
from tests.conftest import wait_for

from batchyard.cli.client import Client

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make accounts")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7 somebody@somewhere"


@pytest.fixture
def node(client: Client, shared_pool: str) -> str:
    """POOL/NODE of a node that is up."""

    def look() -> str | None:
        return next((one["id"] for one in client.listed("pools", shared_pool, "nodes") if one["state"] in ("idle", "running")), None)

    return f"{shared_pool}/{wait_for(look, 'the node')}"


@pytest.fixture
def name() -> Iterator[str]:
    """A name that nobody has, before and after."""
    name = f"by_{secrets.token_hex(5)}"
    yield name
    if exists(name):
        subprocess.run(["userdel", "--force", name], check=True, capture_output=True)


def exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def expiry_day(name: str) -> str:
    return next(line.split(":")[7] for line in Path("/etc/shadow").read_text().splitlines() if line.startswith(f"{name}:"))


@needs_root
def test_an_account_is_made_changed_and_deleted(cli: Cli, node: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(f"{KEY}\n")
    id_ = node.partition("/")[2]
    made = cli("node", "user", "create", node, name, "--ssh-key", tmp_path / "key.pub", "--expires", "2099-01-01T00:00:00Z")
    assert (made.returncode, made.stdout, made.stderr) == (0, f"{name} may log in to {id_}\n", "")
    account = pwd.getpwnam(name)
    keys = Path(account.pw_dir, ".ssh", "authorized_keys")
    assert (keys.read_text(), keys.stat().st_uid) == (f"{KEY}\n", account.pw_uid)
    again = cli("node", "user", "add", node, name, "--ssh-key", tmp_path / "key.pub")
    assert again.returncode == 1
    assert "NodeUserExists" in again.stderr
    before = expiry_day(name)
    assert before
    changed = cli(
        "node", "user", "update", node, name, "--password-file", "-", "--expires", "2098-01-01T00:00:00Z", input="Secret-word-1\n"
    )
    assert (changed.returncode, changed.stderr) == (0, "")
    assert int(expiry_day(name)) < int(before)
    assert not keys.exists()  # an update replaces everything
    told = json.dumps([made.stdout, changed.stdout, changed.stderr])
    assert "Secret-word-1" not in told
    gone = cli("node", "user", "remove", node, name)
    assert (gone.returncode, gone.stdout) == (0, f"{name} is gone from {id_}\n")
    assert not exists(name)
    missing = cli("node", "user", "delete", node, name)
    assert missing.returncode == 1
    assert "NodeUserNotFound" in missing.stderr


@needs_root
def test_accounts_of_the_machine_are_not_touched(cli: Cli, node: str, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("Secret-word-1")
    before = Path("/etc/shadow").read_bytes()
    for action in ("create", "update"):
        refused = cli("node", "user", action, node, "root", "--password-file", tmp_path / "word")
        assert refused.returncode == 1
        assert "Secret-word-1" not in refused.stderr
    assert cli("node", "user", "delete", node, "root").returncode == 1
    assert Path("/etc/shadow").read_bytes() == before


def test_what_is_missing_is_said(cli: Cli, node: str, tmp_path: Path) -> None:
    nothing = cli("node", "user", "create", node, "somebody")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "say how it logs in: --ssh-key FILE or --password-file FILE" in nothing.stderr
    unread = cli("node", "user", "create", node, "somebody", "--ssh-key", tmp_path / "no.pub")
    assert unread.returncode == 1
    assert "cannot read" in unread.stderr
