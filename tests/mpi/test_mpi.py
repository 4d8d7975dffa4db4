"""MPI as the field starts it, `mpirun -n 6 --host $AZ_BATCH_HOST_LIST ./prog`, over real nodes; and what starts the remote processes."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from tests import conftest
from tests.conftest import Server

from batchyard.cli import processes
from batchyard.cli.client import Client, Refused
from batchyard.providers.network import kernel

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(400)]
wait_for = partial(conftest.wait_for, seconds=180.0)  # starts of MPI take many seconds on a machine that does much else

HERE = Path(__file__).parent
RANKS, INSTANCES = 6, 3
_IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}
_MACHINE = {"imageReference": _IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}
POOL = {"vmSize": "standard_d2s_v3", "virtualMachineConfiguration": _MACHINE, "enableInterNodeCommunication": True}
ADMIN = {"autoUser": {"scope": "pool", "elevationLevel": "admin"}}
LINE = "mpirun -n 6 --host $AZ_BATCH_HOST_LIST ./prog"


class Mpi(NamedTuple):
    """An implementation: a program that is built with it, and what a command line says before it starts that."""

    program: Path
    before: str = ""


class Rank(NamedTuple):
    """A line of the program."""

    rank: int
    size: int
    host: str
    uid: int
    sum: int


def built(where: Path) -> dict[str, Mpi]:
    """All implementations, copied to where every user may run them; one that is missing is an error, for CI installs all."""
    venvs = Path(os.environ["BATCHYARD_MPI"])
    made = {"debian": Mpi(where / "debian")}
    compile_ = ["-o", str(where / "debian"), str(HERE / "prog.c")]
    subprocess.run(["/usr/bin/mpicc", *compile_], check=True)
    for name in ("mpich", "openmpi", "impi-rt"):
        home = where / f"{name}.mpi"
        shutil.copytree(venvs / name, home, symlinks=True)
        program = str(where / name)
        before = f"export PATH={home}/bin:$PATH"
        if name == "impi-rt":  # the runtime alone; its interface is that of MPICH
            headers = f"-I{where}/mpich.mpi/include"
            subprocess.run(["cc", headers, "-o", program, HERE / "prog.c", home / "lib/libmpi.so.12"], check=True)
            before += f" LD_LIBRARY_PATH={home}/lib FI_PROVIDER_PATH={home}/lib I_MPI_ROOT={home}"
        else:
            subprocess.run([home / "bin/mpicc", "-o", program, HERE / "prog.c"], check=True)
        made[name] = Mpi(Path(program), f"{before}; ")
    return made


class Yard:
    """A server with a pool of nodes that reach each other."""

    def __init__(self, *options: str, nodes: int) -> None:
        self.server = Server(*options, nodes=nodes)
        self.batch = Client(self.server.endpoint, self.server.account, self.server.key)
        self.batch.post("pools", body={**POOL, "id": "pool", "targetDedicatedNodes": nodes})
        self.batch.post("jobs", body={"id": "job", "poolInfo": {"poolId": "pool"}})

    def add(self, task: str, mpi: Mpi | None, line: str, **more: Any) -> None:
        """A task of three instances, each of which has the program in its working directory."""
        coordination = "true" if mpi is None else f"cp {mpi.program} prog"
        settings = {"numberOfInstances": INSTANCES, "coordinationCommandLine": coordination}
        before = "" if mpi is None else mpi.before
        body = {"id": task, "commandLine": shlex.join(["sh", "-c", before + line]), "multiInstanceSettings": settings, **more}
        self.batch.post("jobs", "job", "tasks", body=body)

    def task(self, task: str) -> dict[str, Any]:
        return self.batch.get("jobs", "job", "tasks", task)

    def ended(self, task: str) -> dict[str, Any]:
        """How a task ended."""
        found = wait_for(lambda: seen if (seen := self.task(task))["state"] == "completed" else None, f"the end of {task}")
        return dict(found["executionInfo"])

    def read(self, task: str, name: str = "stdout.txt") -> str:
        try:
            return self.batch.read("jobs", "job", "tasks", task, "files", name).decode()
        except Refused:  # not there yet
            return ""

    def words(self, task: str, number: int) -> list[str]:
        """What a task has written once that are so many words."""

        def look() -> list[str] | None:
            found = self.read(task).split()
            return found if len(found) == number else None

        return wait_for(look, f"{number} words of {task}")

    def ranks(self, task: str) -> list[Rank]:
        info = self.ended(task)
        assert info["exitCode"] == 0, self.read(task) + self.read(task, "stderr.txt")
        lines = [line.split() for line in self.read(task).splitlines()]
        return sorted(Rank(int(rank), int(size), host, int(uid), int(total)) for rank, size, host, uid, total in lines)


@pytest.fixture(scope="module")
def implementations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Mpi]]:
    where = Path("/var/tmp") / f"batchyard-mpi-{os.getpid()}"
    where.mkdir(mode=0o755)
    try:
        yield built(where)
    finally:
        shutil.rmtree(where)


@pytest.fixture(scope="module")
def namespaces() -> Iterator[Yard]:
    """Nodes with networks of their own, one more than a task has instances."""
    if reason := kernel.obstacle():
        pytest.skip(f"nodes cannot have networks of their own here: {reason}")
    made = Yard("--network", "namespaces", nodes=INSTANCES + 1)
    try:
        with made.batch:
            yield made
    finally:
        made.server.stop()


@pytest.fixture
def yard(namespaces: Yard) -> Iterator[Yard]:
    """The same for one test, which leaves no task to the next."""
    yield namespaces
    for task in namespaces.batch.listed("jobs", "job", "tasks"):
        if task["state"] != "completed":
            namespaces.batch.post("jobs", "job", "tasks", task["id"], "terminate")


@pytest.mark.parametrize("name", ["debian", "mpich", "openmpi", "impi-rt"])
@pytest.mark.parametrize("who", ["user", "admin"])
def test_the_line_of_the_field_starts_ranks_on_all_nodes(yard: Yard, implementations: dict[str, Mpi], name: str, who: str) -> None:
    more = {"userIdentity": ADMIN} if who == "admin" else {}
    yard.add(f"{name}-{who}", implementations[name], LINE, **more)
    ranks = yard.ranks(f"{name}-{who}")
    assert [(each.rank, each.size, each.sum) for each in ranks] == [(rank, RANKS, 21) for rank in range(RANKS)]
    assert len({each.host for each in ranks}) == INSTANCES
    assert all((each.uid == 0) == (who == "admin") for each in ranks)


@pytest.mark.parametrize("name", ["debian", "mpich"])
def test_nodes_that_share_the_machines_address_do_as_well(implementations: dict[str, Mpi], name: str) -> None:
    made = Yard(nodes=INSTANCES)
    try:
        with made.batch:
            made.add("shared", implementations[name], LINE)
            assert [(each.rank, each.sum) for each in made.ranks("shared")] == [(rank, 21) for rank in range(RANKS)]
    finally:
        made.server.stop()


def ranks_waiting(path: Path) -> list[int]:
    """Pids of ranks that wait for a file."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[:2] == [b"./prog", bytes(path)]:
                found.append(int(entry.name))
    return found


def test_a_rank_that_is_killed_fails_the_task_and_a_retry_runs_on_all_nodes(yard: Yard, implementations: dict[str, Mpi]) -> None:
    gate = yard.server.directory / "gate"
    yard.add("retried", implementations["debian"], f"{LINE} {gate}", constraints={"maxTaskRetryCount": 1})
    for tries in (1, 2):
        waiting = wait_for(lambda: found if len(found := ranks_waiting(gate)) == RANKS else None, "all ranks")
        if tries == 1:
            primary = os.readlink(f"/proc/{parent_of_all(waiting)}/ns/net")
            victim = next(pid for pid in waiting if os.readlink(f"/proc/{pid}/ns/net") != primary)
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: yard.task("retried")["executionInfo"]["retryCount"] == 1, "the retry")
            wait_for(lambda before=waiting: all(processes.start_time(pid) is None for pid in before), "the end of all ranks")
    gate.touch()
    ranks = yard.ranks("retried")
    assert len({each.host for each in ranks}) == INSTANCES
    assert yard.ended("retried")["retryCount"] == 1
    gate.unlink()
    yard.add("failed", implementations["debian"], f"{LINE} {gate}")
    waiting = wait_for(lambda: found if len(found := ranks_waiting(gate)) == RANKS else None, "all ranks")
    os.kill(waiting[-1], signal.SIGKILL)
    info = yard.ended("failed")
    assert info["result"] == "failure"
    assert info["failureInfo"]["code"] == "FailureExitCode"


def parent_of_all(ranks: list[int]) -> int:
    """The mpirun of ranks: the parent of those on its own node."""
    for rank in ranks:
        parent = int(Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[1])
        if b"mpirun" in Path(f"/proc/{parent}/cmdline").read_bytes():
            return parent
    raise AssertionError("no rank is mpirun's own")


START = "$OMPI_MCA_plm_rsh_agent"


def test_a_remote_start_has_the_nodes_user_and_directory_and_gives_back_output_and_exit_code(yard: Yard) -> None:
    script = (
        f'for host in $(echo $AZ_BATCH_HOST_LIST | tr , \\ ); do {START} -x $host "hostname; pwd; echo loud >&2; exit 7"; echo $?; done'
    )
    yard.add("plain", None, script)
    assert yard.ended("plain")["exitCode"] == 0
    lines = yard.read("plain").splitlines()
    hosts, places, codes = lines[::3], lines[1::3], lines[2::3]
    assert len(set(hosts)) == INSTANCES
    assert len(set(places)) == 1, "a path means the same on every node"
    assert codes == ["7"] * INSTANCES
    assert yard.read("plain", "stderr.txt") == "loud\n" * INSTANCES


def test_nothing_is_started_outside_of_the_task(yard: Yard) -> None:
    yard.add("held", None, f"echo $BATCHYARD_LAUNCH_SOCKET {START} $AZ_BATCH_NODE_LIST; until [ -e done ]; do sleep 0.1; done")
    socket, program, addresses = yard.words("held", 3)
    nodes = list(yard.batch.listed("pools", "pool", "nodes"))
    [other] = [node for node in nodes if node["ipAddress"] not in addresses.split(";")]
    inside = next(node for node in nodes if node["ipAddress"] in addresses.split(";"))

    def launch(user: int, host: str) -> subprocess.CompletedProcess[str]:
        environment, words = {"BATCHYARD_LAUNCH_SOCKET": socket}, [program, host, "id", "-u"]
        return subprocess.run(words, env=environment, user=user, capture_output=True, text=True, timeout=60, check=False)

    owner = os.stat(socket).st_uid
    assert launch(owner, inside["ipAddress"]).stdout == launch(owner, inside["id"]).stdout != ""
    strange = launch(owner + 1, inside["ipAddress"])
    assert (strange.returncode, strange.stdout) == (255, "")
    assert "Permission denied" in strange.stderr
    for host in (other["ipAddress"], other["id"], "localhost"):
        refused = launch(owner, host)
        assert (refused.returncode, refused.stdout) == (255, "")
        assert f"No instance of this task runs on the host {host[:64]}" in refused.stderr

    token = (yard.server.directory / "nodes" / other["id"] / "token").read_text()
    with contextlib.closing(sqlite3.connect(f"file:{yard.server.directory}/batchyard.db?mode=ro", uri=True)) as rows:
        [(pk, run)] = rows.execute("SELECT pk, run FROM task WHERE id = 'held'")
    attempt = {"attempt": f"{pk}.{run}", "host": inside["ipAddress"], "command": "true", "name": "a"}
    asked = httpx.post(f"{yard.server.endpoint}/agent/starts", json=attempt, headers={"authorization": f"Bearer {token}"})
    assert (asked.status_code, asked.text) == (409, "No instance of this task runs on the node that asks")
    assert httpx.post(f"{yard.server.endpoint}/agent/starts", json=attempt).status_code == 403
    yard.batch.post("jobs", "job", "tasks", "held", "terminate")
    yard.ended("held")
    wait_for(lambda: not os.path.exists(socket), "the end of the socket")


def test_what_was_started_ends_with_the_task_and_with_who_asked(yard: Yard) -> None:
    last = "$(echo $AZ_BATCH_HOST_LIST | cut -d , -f 3)"
    remote = f'{START} {last} "echo \\$\\$; exec sleep 1000"'
    yard.add("ends", None, f"{remote} & {remote} & sleep 1000; wait")
    pids = [int(pid) for pid in yard.words("ends", 2)]
    asked = [pid for pid in processes_of(b"/launch") if processes.start_time(pid)]
    os.kill(asked[0], signal.SIGKILL)
    wait_for(lambda: sum(processes.start_time(pid) is None for pid in pids) == 1, "the end of one with who asked")
    yard.batch.post("jobs", "job", "tasks", "ends", "terminate")
    wait_for(lambda: all(processes.start_time(pid) is None for pid in pids), "the end of the other with the task")


def test_a_remote_command_outlasts_the_server(yard: Yard) -> None:
    gate, server = yard.server.directory / "outlasts", yard.server
    last = "$(echo $AZ_BATCH_HOST_LIST | cut -d , -f 3)"
    remote = f'{START} {last} "echo begun; until [ -e {gate} ]; do sleep 0.1; done; echo over; exit 3"'
    yard.add("outlasts", None, f"{remote}; echo $?")
    yard.words("outlasts", 1)
    server.kill()
    server.start()
    gate.touch()
    assert yard.ended("outlasts")["exitCode"] == 0, yard.read("outlasts", "stderr.txt")
    assert yard.read("outlasts").splitlines() == ["begun", "over", "3"]


def processes_of(name: bytes) -> Iterator[int]:
    """Pids of processes one of whose first words ends so."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")[:4]
            except OSError:
                continue
            if any(word.endswith(name) for word in words):
                yield int(entry.name)
