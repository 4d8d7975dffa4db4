"""Every version of the Python and JavaScript clients that docs/versions.md names, unmodified, against a live server; it makes the table.

`WRITE=1 make test-clients` writes the table anew.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.conftest import Server

from batchyard.api.app import VERSIONS
from batchyard.api.operations import OPERATIONS
from batchyard.api.wire.deviations import DEVIATIONS

pytestmark = pytest.mark.clients

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENT = Path(os.environ.get("BATCHYARD_CLIENTS") or ROOT / ".venv-clients")
PAGE = ROOT / "docs" / "versions.md"
_BEGIN = "<!-- printed by `WRITE=1 make test-clients`; do not edit below -->\n"
PYTHON = (ROOT / "requirements" / "clients" / "python.txt").read_text().split()
NODE = sorted(
    json.loads((ROOT / "requirements" / "clients" / "package.json").read_text())["dependencies"],
    key=lambda name: int(name.removeprefix("batch-").split(".")[0]),
)

ALL: dict[str, object] = {
    "images": "linux",
    "slots": [3, 3],
    "exists": [True, False],
    "metadata": "1",
    "formula": True,
    "pool_again": "PoolExists",
    "added": ["success"] * 3,
    "counts": [0, 0, 4, 3, 1],
    "task": ["completed", 3, "failure"],
    "failed": ["one"],
    "stdout": "hello\n",
    "files": ["stderr.txt", "stdout.txt", "wd"],
    "length": "6",
    "preparation": "success",
    "no_task": "TaskNotFound",
    "priority": [5],
    "node": True,
    "login": 22,
    "scheduling": "disabled",
    "nodes": 1,
    "reason": "enough",
}
"""What a tour finds."""
REFUSED = {"refused": "UnsupportedRequestVersion"}


class Client(msgspec.Struct, frozen=True):
    """A version of a client: its name, how its tour is run, where its sources are, what its tour tells of."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    sources: Path
    names: frozenset[str] = frozenset(ALL)


def clients() -> list[Client]:
    """All of them, oldest first, Python before JavaScript."""
    python, node, modules = str(ENVIRONMENT / "bin" / "python"), str(ENVIRONMENT / "bin" / "node"), ENVIRONMENT / "clients" / "node_modules"
    found = []
    for wish in PYTHON:
        home = ENVIRONMENT / "clients" / wish
        name = wish.replace("==", " ")
        command = (python, "-P", "-W", "ignore", str(HERE / "tour.py"))
        found.append(Client(name, command, {"PYTHONPATH": str(home)}, home / "azure" / "batch"))
    mine = find_spec("azure.batch")
    assert mine is not None
    assert mine.origin is not None
    of_15 = frozenset(ALL) - {"exists", "failed", "length", "preparation", "priority", "login", "scheduling", "reason"}
    tour = (sys.executable, "-P", str(HERE / "tour15.py"))
    found.append(Client(f"azure-batch {metadata.version('azure-batch')}", tour, {}, Path(mine.origin).parent, of_15))
    for name in NODE:
        keys = "batch-7.0.0" if name == "batch-6.0.0" else name  # 6 has no shared key of its own
        command = (node, str(HERE / "tour.js"), str(modules / name), str(modules / keys))
        found.append(Client(f"npm @azure/batch {name.removeprefix('batch-')}", command, {}, modules / name / "dist"))
    return found


CLIENTS = {client.name: client for client in clients()}


@pytest.fixture(scope="module")
def tours() -> dict[str, Any]:
    """What each client's tour found; four of them are on their way at a time."""
    if not ENVIRONMENT.exists():
        pytest.fail(f"no clients in {ENVIRONMENT}: run `make test-clients`")
    server = Server(nodes=4)

    def tour(client: Client) -> Any:
        prefix = re.sub(r"[^a-z0-9]+", "-", client.name)
        environment = {**server.environment, **client.environment}
        run = subprocess.run([*client.command, prefix], env=environment, capture_output=True, text=True, check=False, timeout=110)
        return json.loads(run.stdout) if run.returncode == 0 else {"failed": run.stderr[-2000:]}

    try:
        with ThreadPoolExecutor(4) as pool:
            return dict(zip(CLIENTS, pool.map(tour, CLIENTS.values()), strict=True))
    finally:
        server.stop()


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_works_or_is_refused_by_its_version(name: str, tours: dict[str, Any]) -> None:
    found = dict(tours[name])
    version = found.pop("api_version", None)
    expected = {key: ALL[key] for key in CLIENTS[name].names} if version in VERSIONS else REFUSED
    assert found == expected


def test_versions_before_2018_12_are_refused(tours: dict[str, Any]) -> None:
    assert {name for name, found in tours.items() if "refused" in found} == {
        "azure-batch 4.1.3",
        "azure-batch 5.1.1",
        "npm @azure/batch 6.0.0",
    }


def test_every_served_version_has_a_client_but_for_previews(tours: dict[str, Any]) -> None:
    assert VERSIONS - {found.get("api_version") for found in tours.values()} == {"2024-07-01.20.0"}


def test_the_table_in_the_docs_is_what_was_found(tours: dict[str, Any]) -> None:
    head, _, printed = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    if os.environ.get("WRITE"):
        PAGE.write_text(f"{head}{_BEGIN}\n{tables(tours)}", encoding="utf-8")
    else:
        assert printed == f"\n{tables(tours)}", "run `WRITE=1 make test-clients`"


def tables(tours: dict[str, Any]) -> str:
    """The clients, and the deviations of versions."""
    lines = ["## Clients", "", "| client | API version | | not served of what it can call |", "|---|---|---|---|"]
    for name, client in CLIENTS.items():
        found = tours[name]
        refused = found.get("refused")
        lines.append(
            f"| {name} | {found['api_version']} | {'works' if refused is None else f'refused: `{refused}`'} "
            f"| {'' if refused else ', '.join(f'`{each}`' for each in not_served(client))} |"
        )
    lines += ["", "## What older versions say otherwise", "", "| before | older | newer | |", "|---|---|---|---|"]
    for row in DEVIATIONS:
        ways = [way for way, change in (("taken", row.inward), ("answered", row.outward)) if change is not None]
        older = f"`{row.older}`" if row.older.isalnum() else row.older
        lines.append(f"| {row.before} | {older} | `{row.newer}` | {' and '.join(ways)} |")
    for op in OPERATIONS:
        if op.until is not None:
            lines.append(f"| up to {op.until} | `{op.method} {op.path}` | | answered |")
    return "\n".join([*lines, ""])


_CALLS = re.compile(r"""(?:metadata = \{['"]url['"]: |_url = |\bpath: )['"](/?[a-z][^'"]*)['"]""")


def not_served(client: Client) -> list[str]:
    """Resources that a client can call and the server does not have."""
    served = {re.sub(r"\{\w+\}", "{}", op.path).strip("/") for op in OPERATIONS}
    sources = [path for kind in ("*.py", "*.js") for path in client.sources.rglob(kind) if not path.name.endswith(".min.js")]
    called = {call.strip("/") for path in sources for call in _CALLS.findall(path.read_text("utf-8"))}
    assert "pools" in called, client.name
    missing = {call for call in called if re.sub(r"\{\w+\}", "{}", call) not in served}
    return sorted({re.split(r"[/(]", call)[0] if not call.startswith(("pools/", "jobs/")) else call.rpartition("/")[2] for call in missing})
