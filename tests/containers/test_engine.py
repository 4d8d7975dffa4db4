"""What the agent asks of its engine: images, directories, and the words of a container (contract 4.8)."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from batchyard.agent.containers import boxes, images, podman
from batchyard.agent.containers.images import Images, Said
from batchyard.agent.containers.podman import Podman
from batchyard.agent.places import layout as places
from batchyard.agent.places.layout import Layout
from batchyard.agent.places.users import User
from batchyard.agent.run import environment
from batchyard.agent.transfer.failures import Failed
from batchyard.model.common import ContainerRegistry, ContainerSettings
from batchyard.model.sync import NodeSetup

pytestmark = pytest.mark.engines

IMAGE = "r.example/a:1"


class SlowEngine:
    """Answers a pull when it is told to, by the password that came with it; a removal too."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = asyncio.Event()

    async def __call__(self, *words: str, limit_s: float) -> Said:
        self.asked.append(words[0])
        if words[0] == "images":
            return Said(0, "[]", "")
        wrong = "--authfile" in words and "d3Jvbmc" in Path(words[words.index("--authfile") + 1]).read_text()
        await self.go.wait()
        return Said(125, "", "unauthorized") if wrong else Said(0, "", "")


@pytest.fixture
def engine(tmp_path: Path) -> Podman:
    found = podman.find(Layout(str(tmp_path / "root")))
    assert found is not None, "podman is missing: run scripts/engines"
    os.makedirs(f"{found.home}/files")
    return found


def _login(password: str) -> ContainerRegistry:
    return ContainerRegistry(username="abc", password=password, registry_server="r.example")


async def test_a_wrong_password_fails_nobody_else(engine: Podman) -> None:
    slow = SlowEngine()
    made = Images(engine, slow)
    # "abc:aawrong" in base64 has the three letters aligned to d3Jvbmc
    wrong, right, again = (asyncio.create_task(made.have(IMAGE, _login(each))) for each in ("aawrong", "right", "right"))
    while len(slow.asked) < 2:
        await asyncio.sleep(0)
    slow.go.set()
    with pytest.raises(Failed):
        await wrong
    await right
    await again
    assert slow.asked == ["pull", "pull"]


async def test_an_image_that_is_held_stays_and_one_that_goes_is_pulled_again(engine: Podman, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "is_tight", lambda _: True)
    slow = SlowEngine()
    slow.go.set()
    made = Images(engine, slow)
    made.hold(IMAGE)
    await made.have(IMAGE, None)
    await made.relieve(())
    assert slow.asked == ["pull"]
    made.release(IMAGE)
    slow.go.clear()
    going = asyncio.create_task(made.relieve(()))
    while slow.asked[-1] != "rmi":
        await asyncio.sleep(0)
    wanted = asyncio.create_task(made.have(IMAGE, None))
    for _ in range(10):
        await asyncio.sleep(0)
    assert slow.asked == ["pull", "rmi"], "a pull beside the removal could be undone by it"
    slow.go.set()
    await asyncio.gather(going, wanted)
    assert slow.asked == ["pull", "rmi", "pull"]


def test_a_directory_that_somebody_else_made_is_not_taken(engine: Podman, tmp_path: Path) -> None:
    for name, mode, owner in (("open", 0o777, os.geteuid()), ("foreign", 0o700, 12_345)):
        path = tmp_path / name
        path.mkdir()
        path.chmod(mode)
        os.chown(path, owner, -1)
        with pytest.raises(FileExistsError):
            Podman(engine.home, str(path), engine.program, engine.unshare, engine.setpriv, root=False).configure("crun")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(FileExistsError):
        Podman(engine.home, str(tmp_path / "link"), engine.program, engine.unshare, engine.setpriv, root=False).configure("crun")


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_both_runtimes_lack_the_way_past_permissions(engine: Podman, runtime: str, tmp_path: Path) -> None:
    [path] = [each for each in engine.runtimes() if os.path.basename(each) == runtime]
    engine.configure(path)
    closed = tmp_path / "closed"
    (closed / "in").mkdir(parents=True)
    closed.chmod(0o700)
    os.chown(closed, 70_001, 70_001)
    tmp_path.chmod(0o755)
    common = ["run", "--rm", "--network=host", "--cgroups=disabled", "--log-driver=none", "--user=70002", "--cap-drop=all"]
    common += [f"--mount=type=bind,source={tmp_path},target=/mnt", "--workdir=/mnt/closed/in", "--rootfs", "/:O", "pwd"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(engine.command(*words, *common), env=engine.environment, capture_output=True, text=True, check=False)

    assert run().returncode == 0, "without it the runtime enters as root"
    held = run("--runtime", podman.HELD)
    assert held.returncode != 0
    assert "ermission denied" in held.stderr


def test_what_the_variables_name_is_in_the_container(engine: Podman, tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "root"), str(tmp_path / "seen"))
    layout.make()
    engine.configure(engine.runtimes()[0])
    place, preparation, user = layout.task("j", "t"), layout.task("j", "p"), User(70_001, "_azbatch")
    for each in (place, preparation):
        assert places.make(each, user)
    setup = NodeSetup(account_name="a", account_url="http://x", pool_id="p", node_id="n", is_dedicated=True, slots=1)
    variables = environment.of_task(environment.of_node(setup, layout), place, user, None, [], [], preparation=preparation)
    wish = boxes.Wish("1", ContainerSettings(image_name="a"), ["true"], place, user, variables, frozenset(), preparation)
    argv = boxes.box(engine, layout, wish, "a", []).argv
    mounted = [word.split("target=")[1].split(",")[0] for word in argv if word.startswith("--mount=")]
    paths = {name: value for name, value in variables.items() if (name.endswith("_DIR") or name == "HOME") and "ROOT" not in name}
    assert len(paths) >= 8
    for name, path in paths.items():
        assert any(path == each or path.startswith(each + "/") for each in mounted), name
    assert layout.root not in mounted
    assert not any(each.startswith(layout.volatile) for each in mounted)
