"""docs/cli.md is true: its sessions are run as they are printed, its tables name every command."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from batchyard.cli import table

SCRIPT = Path(__file__).parents[2] / "scripts" / "cli.py"
DOCUMENT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")


class Server(Protocol):
    """What this test needs of the fixture `own_server`."""

    environment: dict[str, str]


def steps() -> list[tuple[str, str]]:
    """(command, expected output) in the document's order."""
    blocks = re.findall(r"```console\n(.*?)```", DOCUMENT, re.DOTALL)
    return [tuple(step.split("\n", 1)) for block in blocks for step in re.split(r"^\$ ", block, flags=re.MULTILINE) if step]


def pattern(text: str) -> str:
    """`…` stands for anything in a line, alone on a line for any lines."""
    lines = [r"(?:.*\n)*?" if line == "…\n" else re.escape(line).replace("…", ".*") for line in text.splitlines(keepends=True)]
    return "".join(lines)


def test_sessions_run_as_they_are_printed(own_server: Server, tmp_path: Path) -> None:
    mark = "--- next ---"
    script = "".join(f"code=$?\necho '{mark}'\n(exit $code)\n{command}\n" for command, _ in steps())
    environment = {**own_server.environment, "PATH": f"{Path(sys.executable).parent}:{own_server.environment['PATH']}"}
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    shell = subprocess.Popen(["sh", "-c", script], **both, text=True, env=environment, cwd=tmp_path)
    _, *shown = shell.communicate(timeout=100)[0].split(f"{mark}\n")
    assert len(shown) == len(steps())
    for (command, expected), text in zip(steps(), shown, strict=True):
        assert re.fullmatch(pattern(expected), text), f"$ {command}\n{text}\nexpected:\n{expected}"


def test_the_reference_is_printed_from_the_table() -> None:
    spec = importlib.util.spec_from_file_location("cli", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run scripts/cli.py --write"


def test_the_commands_that_are_named_exist() -> None:
    names = {verb.name for verb in table.COMMANDS} | {noun.name for noun in table.NOUNS}
    text, _, _ = DOCUMENT.partition("<!-- printed by")
    assert set(re.findall(r"`batchyard ([a-z]+)", text)) | set(re.findall(r"^\$ batchyard ([a-z]+)", text, re.MULTILINE)) <= names
    for noun in table.NOUNS:
        for verb in re.findall(rf"batchyard {noun.name} ([a-z-]+)", text):
            assert verb in {name for known in noun.verbs for name in (known.name, *known.aliases)}, verb
