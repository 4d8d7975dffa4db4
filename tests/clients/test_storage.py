"""Storage clients that people have, unmodified, against a live server; it makes the table of docs/storage.md.

`WRITE=1 make test-clients` writes the table anew.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.storage.blob import AccountSasPermissions, BlobServiceClient, ResourceTypes, generate_account_sas
from tests.clients.test_clients import ENVIRONMENT, ROOT
from tests.conftest import Server

pytestmark = pytest.mark.clients

HERE = Path(__file__).parent
PAGE = ROOT / "docs" / "storage.md"
_BEGIN, _END = "<!-- clients: printed by `WRITE=1 make test-clients` -->\n", "<!-- end -->\n"
TOURS = re.findall(r'^    "(.+)": ', (HERE / "storage_tour.py").read_text(encoding="utf-8"), re.MULTILINE)
STORAGE = ENVIRONMENT / "storage"
"""Where npm's are."""
AZCOPY = STORAGE / "node_modules" / "@azure-tools" / "azcopy-linux" / "dist" / "bin" / "azcopy_linux_amd64"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if not STORAGE.exists():
        pytest.fail(f"no storage clients in {ENVIRONMENT}: run `make test-clients`")
    started = Server(nodes=0)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def told(server: Server) -> Mapping[str, str]:
    """What a tour is told of the server."""
    parts = dict(part.split("=", 1) for part in server.storage_connection_string.split(";") if part)
    return {
        "TOUR_URL": parts["BlobEndpoint"],
        "TOUR_ACCOUNT": parts["AccountName"],
        "TOUR_KEY": parts["AccountKey"],
        "TOUR_CONNECTION": server.storage_connection_string,
    }


def run(command: list[str], environment: Mapping[str, str], home: Path) -> str:
    passed = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    own = {**passed, "HOME": str(home), **environment}
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.mark.parametrize("name", TOURS)
def test_python(name: str, told: Mapping[str, str], tmp_path: Path) -> None:
    own = {"PYTHONPATH": str(ENVIRONMENT / "clients" / name.replace(" ", "=="))} if " " in name and "(" not in name else {}
    command = [str(ENVIRONMENT / "bin" / "python"), "-P", "-W", "ignore", str(HERE / "storage_tour.py"), name]
    assert run(command, {**told, **own}, tmp_path).strip() == "ok"


def test_npm(told: Mapping[str, str], tmp_path: Path) -> None:
    command = [str(ENVIRONMENT / "bin" / "node"), str(HERE / "storage_tour.js"), str(STORAGE)]
    assert run(command, told, tmp_path).strip() == "ok"


def test_azcopy(told: Mapping[str, str], tmp_path: Path) -> None:
    """Copy up and down, sync, remove; with a SAS, as it has no keys."""
    AZCOPY.chmod(0o755)
    if subprocess.run([str(AZCOPY), "--version"], capture_output=True, check=False).returncode == 127:
        pytest.skip("azcopy wants libsecret, which this machine has not (Debian: libsecret-1-0; .ci/run installs it)")
    token = signature(told)
    box = BlobServiceClient.from_connection_string(told["TOUR_CONNECTION"]).create_container("azcopy")
    files, back = tmp_path / "files", tmp_path / "back"
    (files / "deep").mkdir(parents=True)
    for number in range(5):
        (files / "deep" / str(number)).write_bytes(os.urandom(100_000 * number))
    quiet = {"AZCOPY_DISABLE_SYSLOG": "true", "AZCOPY_LOG_LOCATION": str(tmp_path), "AZCOPY_JOB_PLAN_LOCATION": str(tmp_path)}

    def azcopy(*words: str) -> None:
        run([str(AZCOPY), *words, "--output-level", "essential"], quiet, tmp_path)

    url = f"{told['TOUR_URL']}/azcopy"
    azcopy("copy", str(files), f"{url}?{token}", "--recursive", "--from-to", "LocalBlob")
    assert {blob.name for blob in box.list_blobs()} == {f"files/deep/{number}" for number in range(5)}
    (files / "deep" / "0").unlink()
    azcopy("sync", str(files), f"{url}/files?{token}", "--delete-destination", "true", "--from-to", "LocalBlob")
    assert {blob.name for blob in box.list_blobs()} == {f"files/deep/{number}" for number in range(1, 5)}
    azcopy("copy", f"{url}/files?{token}", str(back), "--recursive", "--from-to", "BlobLocal")
    assert (back / "files" / "deep" / "4").read_bytes() == (files / "deep" / "4").read_bytes()
    azcopy("remove", f"{url}/files?{token}", "--recursive", "--from-to", "BlobTrash")
    assert list(box.list_blobs()) == []


def test_rclone(told: Mapping[str, str], tmp_path: Path) -> None:
    """Copy up and down, check, sync, move, purge, lists; with a SAS, which it takes with any address."""
    program = shutil.which("rclone")
    if program is None:
        pytest.skip("no rclone (Debian: rclone; .ci/run installs it)")
    BlobServiceClient.from_connection_string(told["TOUR_CONNECTION"]).create_container("rclone")
    files, back = tmp_path / "files", tmp_path / "back"
    (files / "deep").mkdir(parents=True)
    for number in range(5):
        (files / "deep" / str(number)).write_bytes(os.urandom(3_000_000 * number))
    environment = {"RCLONE_CONFIG_TOUR_TYPE": "azureblob", "RCLONE_CONFIG_TOUR_SAS_URL": f"{told['TOUR_URL']}?{signature(told)}"}

    def rclone(*words: str) -> list[str]:
        return run([program, "--config", "", *words], environment, tmp_path).split()

    rclone("copy", str(files), "tour:rclone/a", "--azureblob-chunk-size", "4M")
    rclone("check", str(files), "tour:rclone/a")
    (files / "deep" / "0").unlink()
    rclone("sync", str(files), "tour:rclone/a")
    assert sorted(rclone("lsf", "-R", "--files-only", "tour:rclone")) == [f"a/deep/{number}" for number in range(1, 5)]
    rclone("moveto", "tour:rclone/a/deep/1", "tour:rclone/b/moved")
    rclone("copy", "tour:rclone/a", str(back))
    assert (back / "deep" / "4").read_bytes() == (files / "deep" / "4").read_bytes()
    rclone("purge", "tour:rclone/a")
    assert rclone("lsf", "-R", "--files-only", "tour:rclone") == ["b/moved"]


def test_celery(told: Mapping[str, str], tmp_path: Path) -> None:
    """Its transport azurestoragequeues, with a worker of its own."""
    queues = next(part for part in told["TOUR_CONNECTION"].split(";") if part.startswith("QueueEndpoint=")).partition("=")[2]
    (tmp_path / "results").mkdir()
    environment = {"TOUR_BROKER": f"azurestoragequeues://{signature(told)}@{queues}", "TOUR_RESULTS": str(tmp_path / "results")}
    command = [str(ENVIRONMENT / "bin" / "python"), "-W", "ignore", str(HERE / "storage_celery.py")]
    assert run(command, {**environment, "PYTHONPATH": str(HERE)}, tmp_path).strip() == "ok"


def signature(told: Mapping[str, str]) -> str:
    """An account SAS, for who has no keys."""
    kinds = ResourceTypes(service=True, container=True, object=True)
    allowed = AccountSasPermissions.from_string("rwdlacup")
    until = datetime.now(UTC) + timedelta(hours=1)
    return str(generate_account_sas(told["TOUR_ACCOUNT"], told["TOUR_KEY"], kinds, allowed, until, services="bq"))


def versions(*locks: str) -> dict[str, str]:
    """What locks of requirements/ name."""
    text = "".join((ROOT / "requirements" / name).read_text() for name in locks)
    return dict(re.findall(r"^([\w-]+)==(\S+)", text, re.MULTILINE))


def rows() -> Iterator[tuple[str, str, str]]:
    """Client, version, and what tries it."""
    known = versions("clients.txt") | json.loads((ROOT / "requirements" / "storage" / "package.json").read_text())["dependencies"]
    for name in TOURS:
        client, _, old = name.partition(" ")
        yield name if "(" in name else client, old if old and "(" not in old else known[client], "`make test-clients`"
    for name in ("@azure/storage-blob", "@azure/storage-queue"):
        yield f"npm {name}", known[name], "`make test-clients`"
    yield "azcopy: copy, sync, remove", known["@azure-tools/azcopy-linux"], "`make test-clients`"
    yield "rclone: copy, check, sync, move, purge", "Debian's", "`make test-clients`"
    yield "Celery with a worker", f"{known['celery']} (kombu {known['kombu']})", "`make test-clients`"
    yield "az storage (blobs, messages)", versions("az.txt")["azure-cli"], "`make test-az`"
    for name in ("blob", "queue", "file-datalake"):
        yield f"azure-storage-{name}", versions("dev.txt")[f"azure-storage-{name}"], "`make test`, every operation"


def test_the_table_of_the_documentation() -> None:
    lines = "".join(f"| {client} | {version} | {by} |\n" for client, version, by in rows())
    table = f"{_BEGIN}| client | version | tried by |\n| --- | --- | --- |\n{lines}{_END}"
    text = PAGE.read_text(encoding="utf-8")
    wanted = re.sub(re.escape(_BEGIN) + ".*?" + re.escape(_END), lambda found: table, text, flags=re.DOTALL)
    if os.environ.get("WRITE"):
        PAGE.write_text(wanted, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == wanted
