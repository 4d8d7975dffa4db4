"""A registry with users on loopback, images that are made here, and a server whose pools run containers.

Nothing comes from a public registry: the images are busybox of Debian. The engines are installed by `scripts/engines`; without them
these tests fail.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.api.conftest import Json, Raw, Yard, pool_body, pool_id, raw, sdk, unique, yard
from tests.conftest import Server, wait_for

__all__ = ["pool_id", "raw", "sdk", "yard"]

USER, PASSWORD = "puller", "of-images"
APPLETS = ("sh", "true", "false", "cat", "echo", "env", "id", "sleep", "ls", "pwd", "kill", "mkdir", "touch", "head", "dd", "grep", "stat")
CONFIGURATION = """\
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {directory}/blobs}}}}
http: {{addr: 127.0.0.1:{port}}}
auth: {{htpasswd: {{realm: images, path: {directory}/users}}}}
"""


def _need(name: str) -> str:
    found = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    assert found is not None, f"{name} is missing: run scripts/engines"
    return found


@dataclass
class Registry:
    """A registry that asks for user and password, as podman of the tests' own sees it."""

    host: str
    directory: Path
    process: subprocess.Popen[bytes]

    def podman(self, *words: str, stdin: bytes | None = None) -> str:
        """A command of podman's with images of the tests' own."""
        own = ["--root", f"{self.directory}/graph", "--runroot", f"{self.directory}/run", "--tmpdir", f"{self.directory}/tmp"]
        done = subprocess.run([_need("podman"), *own, *words], input=stdin, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def image(self, name: str = "busybox", *changes: str) -> str:
        """Put an image into the registry; its name."""
        archive = self.directory / "rootfs.tar"
        if not archive.exists():
            _rootfs(archive)
        full = f"{self.host}/{name}"
        self.podman("import", *(word for change in changes for word in ("--change", change)), str(archive), full)
        self.podman("push", "--tls-verify=false", "--creds", f"{USER}:{PASSWORD}", full)
        return full

    def pulls(self, image: str) -> int:
        """How often the registry was asked for an image's manifest by GET."""
        path = image.removeprefix(f"{self.host}/").replace(":", "/manifests/")
        return (self.directory / "log").read_text().count(f'"GET /v2/{path}')

    @property
    def login(self) -> Json:
        return {"registryServer": self.host, "username": USER, "password": PASSWORD}


def _rootfs(archive: Path) -> None:
    """A root directory of busybox."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for name in ("bin", "tmp", "etc"):
            (root / name).mkdir()
        shutil.copy(_need("busybox"), root / "bin" / "busybox")
        for name in APPLETS:
            (root / "bin" / name).symlink_to("busybox")
        (root / "tmp").chmod(0o1777)
        (root / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
        with tarfile.open(archive, "w") as file:
            file.add(root, ".")


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """One for all tests of a process."""
    directory = Path(tempfile.mkdtemp(prefix="batchyard-images-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (directory / "config.yml").write_text(CONFIGURATION.format(directory=directory, port=port))
    (directory / "users").write_text(subprocess.check_output([_need("htpasswd"), "-Bbn", USER, PASSWORD], text=True))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([_need("docker-registry"), "serve", str(directory / "config.yml")], stdout=log, stderr=log)
    made = Registry(f"127.0.0.1:{port}", directory, process)
    wait_for(lambda: _answers(made.host), "the registry to answer")
    try:
        yield made
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _answers(host: str) -> bool:
    try:
        urllib.request.urlopen(f"http://{host}/v2/", timeout=5)
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def image(registry: Registry) -> str:
    """Busybox in the registry."""
    return registry.image("tests/busybox:1")


def container_pool(image: str | None, registry: Registry, pool_id: str, **more: object) -> Json:
    """A pool of one node with four slots whose tasks run in containers."""
    body = pool_body(pool_id, **{"targetDedicatedNodes": 1, "taskSlotsPerNode": 4, **more})
    configuration: Json = {"type": "dockerCompatible", "containerRegistries": [registry.login]}
    if image is not None:
        configuration["containerImageNames"] = [image]
    machine = body["virtualMachineConfiguration"]
    machine["containerConfiguration"] = configuration
    return body


@pytest.fixture(scope="module")
def boxes(server: Server, registry: Registry, image: str) -> Iterator[Yard]:
    """Jobs on a pool that runs containers."""
    raw = Raw(server.endpoint, server.account, server.key)
    pool_id = unique("boxes")
    added = raw("POST", "/pools", container_pool(image, registry, pool_id))
    assert added.status == 201, added.body
    made = Yard(raw, pool_id)
    try:
        yield made
    finally:
        for job_id in made.jobs:
            raw("DELETE", f"/jobs/{job_id}")
        raw("DELETE", f"/pools/{pool_id}")
        wait_for(lambda: raw("GET", f"/pools/{pool_id}").status == 404, "the pool to be gone")


@pytest.fixture
def node_root(boxes: Yard, server: Server) -> str:
    """The root directory of the pool's node."""
    [node] = boxes.get(f"/pools/{boxes.pool_id}/nodes")["value"]
    return str(server.directory / "nodes" / node["id"] / "root")
