"""Names of images, logins, run options (contract 4.8)."""

from __future__ import annotations

import pytest

from batchyard.model.common import ContainerRegistry
from batchyard.rules import containers
from batchyard.rules.containers import Bind, NotAllowed


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
        ("index.docker.io/a/b", "docker.io/a/b:latest"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
        ("r.example/a/b@sha256:" + "0" * 64, "r.example/a/b@sha256:" + "0" * 64),
    ],
)
def test_a_name_means_one_image(name: str, full: str) -> None:
    assert containers.reference(name) == full


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "--all", "a:", "a/", "http://r/a", "a" * 600])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of an image"):
        containers.reference(name)


def test_the_login_is_that_of_the_images_registry() -> None:
    pool = [ContainerRegistry(username="p", password="x", registry_server="https://r.example/v2/")]
    own = ContainerRegistry(username="t", password="x", registry_server="r.example")
    assert containers.login("r.example/a:1", None, pool) is pool[0]
    assert containers.login("r.example/a:1", own, pool) is own
    assert containers.login("docker.io/a:1", own, pool) is None


def test_options_that_everybody_may_have() -> None:
    words = ["--rm", "-it", "-e", "A=b c", "-v", "/a:/b:ro", "--net=host", "--memory=1g", "--mount", "type=bind,src=/c,dst=/d,readonly"]
    found = containers.options(words, admin=False)
    assert found.words == ["--env=A=b c", "--network=host"]
    assert found.binds == [Bind("/a", "/b", True), Bind("/c", "/d", True)]


@pytest.mark.parametrize(
    "words", [["--privileged"], ["--user=0"], ["-u0"], ["--device", "/dev/x"], ["--network=bridge"], ["--security-opt=a"]]
)
def test_options_for_administrators(words: list[str]) -> None:
    assert containers.options(words, admin=True).words
    with pytest.raises(NotAllowed, match="admin only"):
        containers.options(words, admin=False)


@pytest.mark.parametrize(
    "words",
    [
        ["--name=x"],
        ["-d"],
        ["--pid=host"],
        ["--cidfile", "/x"],
        ["image"],
        ["--"],
        ["-v", "name:/x"],
        ["-v", "/a:/b:U"],
        ["--env"],
        ["-itd"],
    ],
)
def test_options_for_nobody(words: list[str]) -> None:
    with pytest.raises(NotAllowed):
        containers.options(words, admin=True)


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.9.9.9", True),
        ("[::1]:5000", True),
        ("127.evil.com", False),
        ("127.0.0.1.evil.com:443", False),
        ("10.0.0.1", False),
    ],
)
def test_only_addresses_of_this_machine_may_speak_plain_http(host: str, own: bool) -> None:
    assert containers.is_loopback(host) is own


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ("nofile=1024:2048", "1024:2048"),
        ("nofile=999999", "4096:4096"),
        ("nofile=-1:-1", "4096:4096"),
        ("nofile=9:5", "5:5"),
        ("stack=unlimited", "-1:-1"),
        ("core=0", "0:0"),
    ],
)
def test_limits_stay_within_those_of_the_agent(given: str, passed: str) -> None:
    found = containers.options(["--ulimit", given], admin=False, hard={"nofile": 4096, "stack": -1})
    assert found.ulimits == {given.partition("=")[0]: passed}
    assert not found.words


@pytest.mark.parametrize("given", ["rtprio=99", "nice=40", "memlock=-1:-1", "rttime=1"])
def test_limits_that_take_from_others_are_for_administrators(given: str) -> None:
    with pytest.raises(NotAllowed, match="admin only"):
        containers.options([f"--ulimit={given}"], admin=False)
    assert containers.options([f"--ulimit={given}"], admin=True, hard={"rtprio": 0}).ulimits


@pytest.mark.parametrize("given", ["host", "nofile", "nofile=x", "nofile=1:2:3", "nofile=--1", "other=1"])
def test_what_is_no_limit(given: str) -> None:
    with pytest.raises(NotAllowed):
        containers.options([f"--ulimit={given}"], admin=True)
