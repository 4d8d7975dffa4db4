"""What a release is made with: its rehearsal, the Pythons that are claimed, the hooks before a commit, what GitHub shows."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from tests.install.conftest import ROOT

import batchyard


def script(name: str) -> ModuleType:
    """A script as a module."""
    loader = SourceFileLoader(f"{name}_script", str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_rehearsal_builds_and_checks_and_changes_nothing() -> None:
    before = git("tag"), git("rev-parse", "HEAD"), (ROOT / "CHANGELOG.md").read_text()
    done = subprocess.run([sys.executable, ROOT / "scripts/release", "--dry-run"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    version = batchyard.__version__
    assert f"Batchyard {version}\n" in done.stdout
    for name in ("batchyard", "batchyard_agent"):
        for file in (f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.tar.gz"):
            assert f"built and checked: {file}, " in done.stdout
    assert f"would date and commit CHANGELOG.md, and tag v{version}" in done.stdout
    assert (git("tag"), git("rev-parse", "HEAD"), (ROOT / "CHANGELOG.md").read_text()) == before
    assert not (ROOT / "dist" / version).exists()


def test_the_changelog_has_a_section_for_this_version() -> None:
    release = script("release")
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    heading, content = release.section(text, batchyard.__version__)
    assert heading == "not released yet" or re.fullmatch(r"\d{4}-\d{2}-\d{2}", heading)
    assert "### Added" in content
    assert release.section(text, "Unreleased")[0] == ""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository that is ready to be released but for its tests and its build."""
    text = f"# Changelog\n\n## [Unreleased]\n\n## [{batchyard.__version__}] - not released yet\n\n- All of it.\n"
    (tmp_path / "CHANGELOG.md").write_text(text)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for words in (
        ("init", "--quiet", "--initial-branch=main"),
        ("remote", "add", "origin", "git@github.com:batchyard/batchyard.git"),
        ("add", "."),
        ("-c", "user.name=A", "-c", "user.email=a@b.invalid", "commit", "--quiet", "-m", "One"),
    ):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def ready(repository: Path) -> Any:
    """The script, at work in that repository."""
    release = script("release")
    release.ROOT, release.CHANGELOG = repository, repository / "CHANGELOG.md"
    return release


def test_a_repository_that_is_ready_has_no_obstacle(repository: Path) -> None:
    assert list(ready(repository).obstacles(batchyard.__version__)) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("sed -i 's/not released yet/2026-01-02/' CHANGELOG.md", "CHANGELOG.md says of .*: 2026-01-02"),
        ("sed -i 's/^- All.*//' CHANGELOG.md", "says nothing of what"),
        (r"sed -i 's/^## \[Unreleased\]/&\n\n- New./' CHANGELOG.md", "still has something under Unreleased"),
        (f"git -c user.name=A -c user.email=a@b.invalid tag -a -m x v{batchyard.__version__}", "there is a tag"),
        ("git checkout -q -b other", "the branch is other, not main"),
        ("touch new", "not committed"),
        ("git remote set-url origin https://elsewhere.invalid/x", "no remote of this repository is there"),
    ],
)
def test_what_stands_against_a_release_is_said(repository: Path, spoil: str, said: str) -> None:
    subprocess.run(spoil, cwd=repository, shell=True, check=True)
    release = ready(repository)
    assert [one for one in release.obstacles(batchyard.__version__) if re.search(said, one)]
    with pytest.raises(release.Refused, match=said):
        release.release(batchyard.__version__)


def test_a_release_dates_commits_and_tags_and_says_what_to_upload(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is done with a build; a rehearsal shows the build."""
    release = ready(repository)
    for name, value in (("NAME", "A"), ("EMAIL", "a@b.invalid")):
        monkeypatch.setenv(f"GIT_AUTHOR_{name}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{name}", value)
    release.date(batchyard.__version__)
    release.seal(batchyard.__version__, [repository / "dist" / batchyard.__version__ / "a.whl"])
    tag = f"v{batchyard.__version__}"
    show = subprocess.run(["git", "show", f"{tag}:CHANGELOG.md"], cwd=repository, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^## \[{re.escape(batchyard.__version__)}\] - \d{{4}}-\d\d-\d\d$", show, re.MULTILINE)
    said = capsys.readouterr().out
    assert f"git push origin main {tag}" in said
    assert f"twine upload dist/{batchyard.__version__}/a.whl" in said


def test_the_pythons_that_are_found_are_those_that_can_run_it() -> None:
    listed = subprocess.run([ROOT / "scripts/pythons", "--list"], capture_output=True, text=True, check=True).stdout.splitlines()
    pythons = script("pythons")
    for line in listed:
        version, program = line.split()
        assert pythons._version(Path(program)) == int(version.removeprefix("3.")) >= 11
    assert pythons._version(Path("/bin/true")) == -1
    done = subprocess.run([ROOT / "scripts/pythons", "--write", "-k", "x"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "--write wants all the tests\n")


def test_claims_are_written_where_they_stand() -> None:
    pythons = script("pythons")
    for project in pythons.PROJECTS:
        text = project.read_text("utf-8")
        assert 11 in pythons.claimed(text)
        more = pythons.claiming(text, {11, 12, 13})
        assert pythons.claimed(more) == {11, 12, 13}
        assert pythons.claiming(more, pythons.claimed(text)) == text


def test_the_hooks_before_a_commit_are_what_make_lint_runs() -> None:
    [local] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    makefile = (ROOT / "Makefile").read_text()
    lines = re.findall(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[0].replace("$(BIN)", ".venv/bin").split("\n")
    assert [hook["entry"] for hook in local["hooks"]] == [line.strip() for line in lines if line]
    assert all(hook["language"] == "system" and hook["pass_filenames"] is False for hook in local["hooks"])


def test_what_github_shows_is_whole() -> None:
    for form in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        said = yaml.safe_load(form.read_text())
        if form.name == "config.yml":
            assert set(said) == {"blank_issues_enabled", "contact_links"}
            continue
        assert said["name"]
        assert said["description"]
        for field in said["body"]:
            assert field["type"] in ("input", "textarea")
            assert field["attributes"]["label"]
        assert len({field["id"] for field in said["body"]}) == len(said["body"])
    asked = (ROOT / ".github/pull_request_template.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert set(re.findall(r"`make (\w+)`", asked)) <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    for name in ("SECURITY.md", "CODE_OF_CONDUCT.md"):
        assert len((ROOT / name).read_text()) > 500
