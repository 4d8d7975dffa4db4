"""What the distributions hold, and what they say of themselves."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from tests.install.conftest import AGENT, ROOT, Built, needed, wishes

import batchyard

MOST_MB = 45
"""What the agent may take with all that it needs."""
LEFT_OUT = (".github/", ".dockerignore")


def tracked(*below: str) -> set[str]:
    """Files of the repository, those too that are not committed yet."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *below]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name for name in listed if (ROOT / name).is_file()}


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def project(directory: Path) -> dict[str, object]:
    found: dict[str, object] = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
    return found


def test_the_wheel_has_the_package_and_what_is_made_from_the_table_and_nothing_else(built: Built) -> None:
    from batchyard.cli import man

    version = batchyard.__version__
    info, share = f"batchyard-{version}.dist-info", f"batchyard-{version}.data/data/share"
    made = {f"{share}/man/man1/{name}" for name, _ in man.pages()}
    completions = {"bash-completion/completions/batchyard", "zsh/site-functions/_batchyard", "fish/vendor_completions.d/batchyard.fish"}
    others = {f"{share}/{name}" for name in {*completions, "batchyard/batchyard.service"}}
    about = {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}
    package = {name.removeprefix("src/") for name in tracked("src")}
    assert names(built.wheel) == package | made | others | about
    assert {"batchyard/py.typed", "batchyard/store/migrations/0001_first.sql", "batchyard/__main__.py"} <= package


def test_the_sdist_has_what_a_checkout_has(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {name for name in tracked() if not name.startswith(LEFT_OUT)}
    assert found == wanted | {"PKG-INFO"}
    assert {"tests/conftest.py", "docs/cli.md", "examples/main_job.py", "CHANGELOG.md"} <= found


def test_the_agents_wheel_has_what_the_agent_imports_and_nothing_of_server_or_command_line(built: Built) -> None:
    lib = "batchyard_agent/lib/batchyard/"
    found = {name.removeprefix(lib) for name in names(built.agent_wheel) if name.startswith(lib)}
    agent = {name.removeprefix("src/batchyard/") for name in tracked("src/batchyard/agent")}
    assert agent <= found
    assert {name.partition("/")[0] for name in found - agent} <= {"__init__.py", "blobs", "disk", "rules", "model"}
    assert not {"rules/placement.py", "model/job.py", "disk/sqlite.py"} & found
    launcher = {"batchyard_agent/__init__.py", "batchyard_agent/__main__.py"}
    others = {name for name in names(built.agent_wheel) if not name.startswith(lib) and ".dist-info/" not in name}
    assert others == launcher | {f"batchyard_agent-{batchyard.__version__}.data/data/share/batchyard-agent/batchyard-agent.service"}


def test_the_two_wheels_have_no_file_in_common(built: Built) -> None:
    def placed(wheel: Path) -> set[str]:
        return {re.sub(r"^[^/]+\.data/data/", "", name) for name in names(wheel)}

    assert not placed(built.wheel) & placed(built.agent_wheel)


def test_the_agents_sdist_is_a_project_of_its_own(built: Built) -> None:
    """Its wheel was built from it, so it is whole; this says that it has no more than that takes."""
    with tarfile.open(built.agent_sdist) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    kept = {name for name in found if not name.startswith("source/")}
    own = {name.removeprefix("packaging/agent/") for name in tracked("packaging/agent")}
    assert kept == own | {"PKG-INFO", ".gitignore"}
    assert (AGENT / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("which", ["wheel", "agent_wheel"])
def test_metadata(built: Built, which: str) -> None:
    said = metadata(getattr(built, which))
    assert said["Version"] == batchyard.__version__
    assert said["Requires-Python"] == ">=3.11"
    assert said["License-Expression"] == "Apache-2.0"
    assert said["Keywords"]
    assert said["Description-Content-Type"] == "text/markdown"
    urls = dict(line.split(", ") for line in said.get_all("Project-URL", []))
    assert set(urls) == {"Homepage", "Documentation", "Source", "Issues", "Changelog"}
    classifiers = said.get_all("Classifier", [])
    assert {"Operating System :: POSIX :: Linux", "Programming Language :: Python :: 3.11"} <= set(classifiers)
    assert not [line for line in classifiers if line.startswith("License ::")]  # the expression says it
    assert str(said.get_payload()).lower().startswith(f"# {said['Name']}")


def test_both_projects_say_the_same_of_themselves() -> None:
    one, other = project(ROOT), project(AGENT)
    for name in ("requires-python", "license", "authors", "urls"):
        assert one[name] == other[name], name
    assert set(other["classifiers"]) <= set(one["classifiers"])  # type: ignore[call-overload]
    extra = other["optional-dependencies"]["uvloop"]  # type: ignore[index]
    assert {*other["dependencies"], *extra} <= set(one["dependencies"])  # type: ignore[misc,call-overload]


def test_the_version_stands_in_one_place() -> None:
    version = batchyard.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    for directory in (ROOT, AGENT):
        assert "version" in project(directory)["dynamic"]  # type: ignore[operator]
    places = {name for name in tracked("src", "packaging", "pyproject.toml") if version in (ROOT / name).read_text("utf-8", "replace")}
    assert places == {"src/batchyard/__init__.py"}


def test_links_are_whole_where_pypi_shows_them(built: Built) -> None:
    shown = str(metadata(built.wheel).get_payload())
    source = project(ROOT)["urls"]["Source"]  # type: ignore[index]
    links = re.findall(r"\]\(([^)]+)\)", shown)
    assert f"{source}/blob/v{batchyard.__version__}/docs/cli.md" in links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    assert "```mermaid" not in shown
    assert "```mermaid" in (ROOT / "README.md").read_text()
    about = str(metadata(built.agent_wheel).get_payload())
    assert [link for link in re.findall(r"\]\(([^)]+)\)", about) if not link.startswith(f"{source}")] == []


def test_what_pypi_and_its_users_expect(built: Built) -> None:
    files = [str(path) for path in built[1:]]
    for words in (["twine", "check", "--strict", *files], ["check_wheel_contents", *(file for file in files if file.endswith(".whl"))]):
        done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_agent_depends_on_what_its_modules_import(built: Built) -> None:
    known = {"azure": "azure-storage-blob"}
    imported: set[str] = set()
    with zipfile.ZipFile(built.agent_wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".py"):
                for node in ast.walk(ast.parse(archive.read(name))):
                    if isinstance(node, ast.Import):
                        imported |= {alias.name.partition(".")[0] for alias in node.names}
                    elif isinstance(node, ast.ImportFrom):
                        imported.add(str(node.module).partition(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"batchyard", "batchyard_agent"}
    assert {known.get(name, name) for name in foreign} == {*wishes(AGENT), "uvloop"}


def test_the_agent_is_small_with_all_that_it_needs(built: Built) -> None:
    own = sum(info.file_size for info in zipfile.ZipFile(built.agent_wheel).infolist())
    foreign = needed(*wishes(AGENT))
    files = {str(path): path for found in foreign.values() for file in found.files or () if (path := Path(str(found.locate_file(file))))}
    size = sum(path.stat().st_size for path in files.values() if path.exists() and path.suffix != ".pyc")
    compiled = sum(path.stat().st_size for path in files.values() if path.suffix == ".py" and path.exists())  # at most about as much again
    assert not {"starlette", "uvicorn", "lark", "rich", "pyyaml", "uvloop"} & set(foreign)
    assert (own * 2 + size + compiled) / 1e6 <= MOST_MB
