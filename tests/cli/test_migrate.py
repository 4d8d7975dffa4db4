"""`batchyard migrate` between servers: what was done with one database goes on with the other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient

import postgres
from batchyard import drivers
from batchyard.cli import connect, daemon, processes


def batchyard(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "batchyard.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def done(*words: str | Path) -> str:
    ran = batchyard(*words)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    return ran.stdout


@pytest.fixture
def url() -> Iterator[str]:
    made = postgres.fresh()
    yield made
    base = drivers.schema(made)
    for name in (base, f"{base}_registry", f"{base}_account_alpha"):
        world = drivers.with_schema(made, name)
        beside = [drivers.beside(world, f"s{pk}") for pk in range(1, 5)]
        for each in (world, *(drivers.beside(place, part) for place in (world, *beside) for part in ("blobs", "queues"))):
            drivers.drop(each)


def own(directory: Path, storage: str, number: int = 0) -> BlobServiceClient:
    """A storage account as a client has it that knows one of its keys."""
    running = daemon.running(directory)
    assert running is not None
    with connect.operator(running.url, directory / "operator.key") as client:
        key = client.get("batchyard", "v1", "storageaccounts", storage, "keys")[("primary", "secondary")[number]]
    return BlobServiceClient(f"{running.url}/{storage}", credential={"account_name": storage, "account_key": key}, retry_total=0)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "state"
    yield made
    for place in (made, tmp_path / "again", tmp_path / "restored"):
        if place.exists():
            daemon.stop(place)
            for pid, started in list(processes.agents_below(place)):
                processes.end(pid, started, 5)


def test_jobs_blobs_and_accounts_of_a_server_are_those_of_the_next(directory: Path, url: str, tmp_path: Path) -> None:
    up = ("up", "--port", "0", "--nodes", "0")
    done(*up, "--dir", directory)
    done("account", "create", "--dir", directory, "alpha")
    done("submit", "--dir", directory, "--job", "first", "--", "true")
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    done("storage", "create", "--dir", directory, "box")
    done("storage", "cp", "--dir", directory, tmp_path / "file", "box:file")
    for account, storage in ((), "first"), (("--in", "alpha"), "second"):
        done("storage-account", "create", "--dir", directory, storage, *account)
        own(directory, storage).create_container("box").upload_blob("b", storage.encode() * 50_000)
    running = batchyard("migrate", "--dir", directory, "--all", "--to", url)
    assert running.returncode == 1
    assert "already runs" in running.stderr
    done("down", "--dir", directory)

    assert "compared table by table" in done("migrate", "--dir", directory, "--all", "--to", url)
    refused = batchyard(*up, "--dir", directory)
    assert refused.returncode == 1
    assert "--database" in refused.stderr
    done(*up, "--dir", directory, "--database", url)
    assert "first" in done("jobs", "--dir", directory)
    assert "alpha" in done("account", "list", "--dir", directory)
    for storage in ("first", "second"):
        assert own(directory, storage, 1).get_blob_client("box", "b").download_blob().readall() == storage.encode() * 50_000
    done("storage", "cp", "--dir", directory, "box:file", tmp_path / "back")
    assert next(path for path in (tmp_path / "back", tmp_path / "back" / "file") if path.is_file()).read_bytes() == b"x" * 100_000
    done("backup", "--dir", directory, "--database", url, tmp_path / "yard.tar")
    done("restore", tmp_path / "yard.tar", "--dir", tmp_path / "restored")
    busy = batchyard("migrate", "--dir", directory, "--all", "--database", url, "--to", tmp_path / "again")
    assert busy.returncode == 1
    done("down", "--dir", directory)

    done("migrate", "--dir", directory, "--all", "--database", url, "--to", tmp_path / "again", "--remove-old")
    assert drivers.peek(url, lambda connection: 1) is None
    done(*up, "--dir", tmp_path / "again")
    assert "first" in done("jobs", "--dir", tmp_path / "again")
    for storage in ("first", "second"):
        assert own(tmp_path / "again", storage).get_blob_client("box", "b").download_blob().readall() == storage.encode() * 50_000
        [place] = (tmp_path / "restored").glob(f"**/blobs.{storage}.*")
        [kept] = [path for path in place.glob("data/*/*") if path.is_file()]
        assert kept.read_bytes() == storage.encode() * 50_000
    assert "alpha" in done("account", "list", "--dir", tmp_path / "again")
    done("down", "--dir", tmp_path / "again")


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (("--to", "x"), 2, "name one account, or say --all"),
        (("alpha", "--all", "--to", "x"), 2, "name one account, or say --all"),
        (("alpha",), 2, "--to"),
        (("alpha", "--to", "/nowhere/at/all"), 1, "registry.db is missing"),
    ],
)
def test_what_makes_no_sense_is_told(tmp_path: Path, words: tuple[str, ...], status: int, why: str) -> None:
    ran = batchyard("migrate", "--dir", tmp_path / "empty", *words)
    assert (ran.returncode, why in ran.stderr) == (status, True), ran.stderr
