"""Nodes with networks of their own (`--network namespaces`): real namespaces, whose tasks try to reach each other and the server."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import Server, wait_for

from batchyard.agent.process import control
from batchyard.cli.client import Client, Refused
from batchyard.providers.network import kernel
from batchyard.providers.network.kernel import Unusable
from batchyard.providers.network.namespaces import choose, host_name, tag

_IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}
_MACHINE = {"imageReference": _IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}
PORT = 7000
LISTENER = f"import socket; s = socket.create_server(('', {PORT})); print('listening', flush=True)\nwhile True: s.accept()"
LOOKER = """
import json, os, socket, sys, urllib.error, urllib.request
def reached(address):
    try:
        socket.create_connection((address, PORT), 2).close()
        return True
    except OSError:
        return False
try:
    answer = urllib.request.urlopen(os.environ["AZ_BATCH_ACCOUNT_URL"], timeout=10).status
except urllib.error.HTTPError as error:
    answer = error.code
names = {name: socket.gethostbyname(name) for name in (socket.gethostname(), sys.argv[1])}
told = {each: reached(each) for each in sys.argv[2:]}
print(json.dumps({"reached": told, "answer": answer, "names": names, "here": socket.gethostname()}))
""".replace("PORT", str(PORT))


OBSTACLE = kernel.obstacle()
needs_namespaces = pytest.mark.skipif(OBSTACLE is not None, reason=f"nodes cannot have networks of their own here: {OBSTACLE}")


class Yard:
    """A server whose nodes have networks of their own, and a client of it."""

    def __init__(self) -> None:
        self.server = Server("--network", "namespaces", nodes=4)
        self.batch = Client(self.server.endpoint, self.server.account, self.server.key)
        self.network = IPv4Network(json.loads((self.server.directory / "network.json").read_text())["network"])

    def pool(self, name: str, nodes: int, together: bool) -> list[dict[str, Any]]:
        body = {"id": name, "vmSize": "standard_d2s_v3", "virtualMachineConfiguration": _MACHINE, "targetDedicatedNodes": nodes}
        self.batch.post("pools", body={**body, "taskSlotsPerNode": 2, "enableInterNodeCommunication": together})
        self.batch.post("jobs", body={"id": name, "poolInfo": {"poolId": name}})
        return self.idle(name, nodes)

    def idle(self, pool: str, nodes: int) -> list[dict[str, Any]]:
        def look() -> list[dict[str, Any]] | None:
            found = [node for node in self.batch.listed("pools", pool, "nodes") if node["state"] == "idle"]
            return found if len(found) == nodes else None

        return wait_for(look, f"{nodes} nodes of {pool}")

    def run(self, job: str, node: dict[str, Any], task: str, script: str, *arguments: str) -> None:
        words = " ".join(f"'{word}'" for word in arguments)
        path = self.server.directory / f"{task}.py"
        path.write_text(script)
        path.chmod(0o644)
        body = {"id": task, "commandLine": f"python3 {path} {words}", "affinityInfo": {"affinityId": node["affinityId"]}}
        self.batch.post("jobs", job, "tasks", body=body)

    def output(self, job: str, task: str) -> str:
        """What a task wrote so far."""
        with contextlib.suppress(Refused):  # not there yet
            return self.batch.read("jobs", job, "tasks", task, "files", "stdout.txt").decode()
        return ""

    def completed(self, job: str, task: str) -> bool:
        return bool(self.batch.get("jobs", job, "tasks", task)["state"] == "completed")


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    made = Yard()
    try:
        with made.batch:
            yield made
    finally:
        made.server.stop()


@pytest.fixture
def own_yard() -> Iterator[Yard]:
    made = Yard()
    try:
        with made.batch:
            yield made
    finally:
        made.server.stop()


def remains(directory: Path) -> list[str]:
    """What the kernel has of a server."""
    return [*kernel.interfaces(tag(directory)), *kernel.namespaces(tag(directory))]


def host_of(server: Server, node: dict[str, Any]) -> str:
    told = json.loads((server.directory / "network.json").read_text())
    return str(told["nodes"][str(server.directory / "nodes" / node["id"])]["host_name"])


@needs_namespaces
def test_nodes_reach_the_server_and_each_other_where_the_pool_says_so(yard: Yard) -> None:
    pools = {"joined": yard.pool("joined", 2, True), "apart": yard.pool("apart", 2, False)}
    addresses = {name: [node["ipAddress"] for node in nodes] for name, nodes in pools.items()}
    every = [address for pair in addresses.values() for address in pair]
    assert len(set(every)) == 4
    assert all(IPv4Address(address) in yard.network for address in every)
    for name, [first, _] in pools.items():
        yard.run(name, first, f"{name}-listens", LISTENER)
    for name in pools:
        wait_for(lambda name=name: "listening" in yard.output(name, f"{name}-listens"), "the listener")
    seen = {}
    for name, [first, second] in pools.items():
        yard.run(name, second, f"{name}-looks", LOOKER, host_of(yard.server, first), *(pair[0] for pair in addresses.values()))
    for name, [first, second] in pools.items():
        wait_for(lambda name=name: yard.completed(name, f"{name}-looks"), "its look")
        seen[name] = json.loads(yard.output(name, f"{name}-looks"))
        assert seen[name]["answer"] in range(200, 500), "the server answers"
        assert seen[name]["here"] == host_of(yard.server, second)
        assert seen[name]["names"][host_of(yard.server, first)] == first["ipAddress"]
        assert seen[name]["names"][seen[name]["here"]] == second["ipAddress"]
    joined, apart = addresses["joined"][0], addresses["apart"][0]
    assert seen["joined"]["reached"] == {joined: True, apart: False}
    assert seen["apart"]["reached"] == {joined: False, apart: False}
    assert f"process_control='{control.probe('test-networks')[0]}'" in yard.server.log().replace('"', "'"), (
        "cgroups are what they are outside"
    )


@needs_namespaces
def test_only_the_nodes_and_this_machine_are_answered_at_the_address_of_the_network(yard: Yard) -> None:
    at = urlsplit(yard.server.endpoint)
    assert at.hostname == str(yard.network[1])

    def answer(source: str) -> bytes:
        with socket.create_connection((str(at.hostname), at.port or 0), 10, (source, 0)) as stranger:
            try:
                stranger.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                return stranger.recv(8)
            except ConnectionError:
                return b""

    assert answer(str(yard.network[1])) == b"HTTP/1.1"
    assert answer("127.0.0.1") == b""
    with socket.create_connection(("127.0.0.1", at.port or 0), 10) as own:
        own.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert own.recv(8) == b"HTTP/1.1"


@needs_namespaces
def test_what_was_killed_is_swept_and_what_stays_keeps_its_address(own_yard: Yard) -> None:
    server = own_yard.server
    before = {node["id"]: node["ipAddress"] for node in own_yard.pool("pool", 2, True)}
    lost, kept = sorted(before)
    server.kill()
    for pid in server.agents().values():
        os.kill(pid, 9)
        wait_for(lambda pid=pid: pid not in server.agents().values(), "its end")
    shutil.rmtree(server.directory / "nodes" / lost)
    assert len(remains(server.directory)) == 1 + 1 + 2 * 2
    server.start()
    assert server.endpoint == own_yard.server.endpoint
    own_yard.idle("pool", 2)
    after = {node["id"]: node["ipAddress"] for node in own_yard.idle("pool", 2)}
    assert after[kept] == before[kept]
    own_yard.batch.post("pools", "pool", "resize", body={"targetDedicatedNodes": 0})
    wait_for(lambda: len(remains(server.directory)) == 1, "nothing but the bridge of the server's address")
    own_yard.batch.post("jobs", "pool", "terminate")
    wait_for(lambda: own_yard.batch.get("pools", "pool")["allocationState"] == "steady", "no nodes")
    own_yard.batch.post("pools", "pool", "resize", body={"targetDedicatedNodes": 1})
    own_yard.idle("pool", 1)
    server.kill()
    server._options = ("--nodes", "4")
    server.start()
    assert remains(server.directory) == []
    assert urlsplit(server.endpoint).hostname == "127.0.0.1"
    with Client(server.endpoint, server.account, server.key) as batch:
        wait_for(
            lambda: [node["ipAddress"] for node in batch.listed("pools", "pool", "nodes")] == ["127.0.0.1"], "the node without network"
        )


@needs_namespaces
def test_a_server_that_is_stopped_leaves_nothing(own_yard: Yard) -> None:
    own_yard.pool("pool", 1, False)
    own_yard.server.process.terminate()
    assert own_yard.server.process.wait(60) == 0
    assert remains(own_yard.server.directory) == []


def test_who_is_not_root_is_refused(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from batchyard.config import Config
from batchyard.server import networks
from batchyard.server.refusals import Refused
if os.geteuid() == 0:
    os.setuid(65534)
try:
    networks.begin(Config(Path(sys.argv[1]), namespaces=True))
except Refused as refused:
    print(refused)
"""
    done = subprocess.run([sys.executable, "-P", "-c", script, tmp_path], capture_output=True, text=True, check=True)
    words = "nodes cannot have networks of their own here: only root makes network namespaces; or say --network host\n"
    assert done.stdout == words


@given(
    length=st.integers(20, 24),
    others=st.lists(st.tuples(st.integers(0, 255), st.integers(17, 26)), max_size=8),
    start=st.integers(0, 2**24),
)
def test_a_network_overlaps_no_other_and_is_found_when_there_is_one(length: int, others: list[tuple[int, int]], start: int) -> None:
    addresses = IPv4Network("10.213.0.0/16")
    taken = [IPv4Network(f"10.213.{part}.0/{size}", strict=False) for part, size in others]
    free = [each for each in addresses.subnets(new_prefix=length) if not any(each.overlaps(other) for other in taken)]
    if free:
        assert choose(addresses, length, taken, start) in free
    else:
        with pytest.raises(Unusable, match="choose another --network-range"):
            choose(addresses, length, taken, start)


@given(st.text(max_size=64), st.integers(1, 99_999))
def test_a_host_name_is_one(node_id: str, number: int) -> None:
    name = host_name(node_id, number)
    assert len(name) <= 24
    assert name.endswith(f"-{number}")
    assert all(part.isascii() and (part.isalnum() or part == "-") for part in name)
    assert not name.startswith("-")


WORLD = """
import subprocess, sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from batchyard.providers.network import kernel
from batchyard.providers.network.kernel import Link

def ip(*words):
    subprocess.run(["ip", *words], check=True)

def python(space, script, *words, **how):
    return subprocess.Popen(["ip", "netns", "exec", space, "python3", "-c", script, *words], stdout=subprocess.PIPE, text=True, **how)

LISTEN = "import socket; s = socket.create_server(('', 80)); print('up', flush=True); print(s.accept()[1][0], flush=True)"
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 80), 2)"
tag, world, network, gateway = sys.argv[1], f"world-{sys.argv[1]}", IPv4Network("10.213.0.0/24"), IPv4Address("10.213.0.1")
link = Link(tag, 1, 1, IPv4Address("10.213.0.2"), joined=False)
Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
ip("link", "set", "lo", "up")
ip("netns", "add", world)
try:
    ip("link", "add", "world", "type", "veth", "peer", "name", "eth0", "netns", world)
    ip("addr", "add", "198.51.100.1/24", "dev", "world")
    ip("link", "set", "world", "up")
    ip("-n", world, "addr", "add", "198.51.100.2/24", "dev", "eth0")
    ip("-n", world, "link", "set", "eth0", "up")
    ip("-n", world, "route", "add", "10.213.0.0/24", "via", "198.51.100.1")
    kernel.begin(tag, network, gateway)
    kernel.translate(tag, network)
    kernel.attach(link, network, gateway)
    print(kernel.outside())
    outer = python(world, LISTEN)
    outer.stdout.readline()
    print(python(link.namespace, CONNECT, "198.51.100.2").wait(), outer.stdout.readline().strip())
    inner = python(link.namespace, LISTEN)
    inner.stdout.readline()
    print(python(world, CONNECT, str(link.address), stderr=subprocess.DEVNULL).wait())
    print(subprocess.run(["python3", "-c", CONNECT, str(link.address)]).returncode)
    inner.kill()
    pair = [Link(tag, number, 2, IPv4Address(f"10.213.0.{number + 1}"), joined=True) for number in (2, 3)]
    for each in pair:
        kernel.attach(each, network, gateway)
        kernel.let_within(tag, each.bridge_name)
    inner = python(pair[0].namespace, LISTEN)
    inner.stdout.readline()
    print(python(link.namespace, CONNECT, str(pair[0].address), stderr=subprocess.DEVNULL).wait())
    print(python(pair[1].namespace, CONNECT, str(pair[0].address)).wait(), inner.stdout.readline().strip())
finally:
    ip("netns", "del", world)
    kernel.sweep(tag, ())
"""


@needs_namespaces
@pytest.mark.skipif(shutil.which("nft") is None, reason="there is no nft here")
def test_nodes_go_out_under_the_machines_address_reach_their_pool_and_nobody_else_comes_in() -> None:
    """In a network of its own, which plays the machine: another one plays the world."""
    alone = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", 'mount -t sysfs sysfs /sys; exec "$@"', "sh"]
    command = [*alone, sys.executable, "-P", "-c", WORLD, secrets.token_hex(3)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["None", "0 198.51.100.1", "1", "0", "1", "0 10.213.0.4"], done.stderr
