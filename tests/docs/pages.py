"""Pages of the documentation as transcripts: every block is run, in the page's order, in one shell, or says why it is not.

A block is one of these:

- `console`: a line after `$ ` is a command, lines after `> ` go on with it, the others are what it prints, both streams together;
- `sh` or indented by four blanks: commands alone, each of which ends with exit code 0;
- any, after the comment `<!-- file: NAME -->`: a file, which is written beside;
- `python`, after `<!-- session: NAME -->`: a program for the SDK of that name; the block after `<!-- output: NAME -->` is all it prints;
- any, after `<!-- not run: WHY -->`; and diagrams.

In what is printed `…` stands for anything in a line, alone on a line for any lines, and port 8777 of this machine for any port.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SDK14_PYTHON = "BATCHYARD_SDK14_PYTHON"
INTERPRETERS = {"sdk15": "python", "sdk14": f'"${SDK14_PYTHON}"'}
ELSEWHERE = re.compile(r"(make|az|pip|pipx|uv|apt-get) |\. \S+/activate")
"""Commands that set up what is there already, and those of `az`, which has its own test."""
_ABOUT = r"(?:<!-- (?P<about>file|session|output|not run): (?P<name>.*?) -->\n+)?"
_FENCE = re.compile(_ABOUT + r"```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_INDENTED = re.compile(_ABOUT + r"(?<=\n\n)(?P<text>(?: {4}.*\n|\n(?= {4}))+)")
_ANSWER = re.compile(r"^\$ (?P<command>.*\n(?:> .*\n)*)(?P<shown>(?:(?!\$ ).*\n)*)", re.M)
_MARK = "--- next ---"


class Step(NamedTuple):
    """Something that a reader does, and what it prints; without `shown`, what it prints is not told, and it succeeds."""

    line: int
    command: str
    shown: str | None


class Shown(NamedTuple):
    """What became of a step."""

    step: Step
    printed: str


def steps(page: Path) -> list[Step]:
    """All that a page does, in its order, but for what is done ELSEWHERE. Raises ValueError for a block that says nothing of itself."""
    return [step for step in all_steps(page) if not ELSEWHERE.match(step.command)]


def all_steps(page: Path) -> list[Step]:
    """All that a page does, in its order."""
    text = page.read_text("utf-8")
    outputs = {found["name"]: found["text"] for found in _FENCE.finditer(text) if found["about"] == "output"}
    beside = re.sub(r"```.*?^```$", lambda found: re.sub(r"[^\n]", "~", found[0]), text, flags=re.M | re.S)
    blocks = sorted([*_FENCE.finditer(text), *_INDENTED.finditer(beside)], key=lambda found: found.start())
    return [step for block in blocks for step in _of_block(block, text.count("\n", 0, block.start("text")) + 1, outputs)]


def _of_block(block: re.Match[str], line: int, outputs: Mapping[str, str]) -> Iterator[Step]:
    about, name, text = block["about"], block["name"], block["text"]
    fenced = "language" in block.groupdict()
    language = block["language"] if fenced else "sh"
    if about in ("not run", "output") or language == "mermaid":
        return
    if about == "file":
        yield Step(line, _writing(name, text), None)
    elif about == "session":
        yield Step(line, f"{_writing(f'{name}.py', text)}\n{INTERPRETERS[name]} {name}.py", outputs[name])
    elif language == "console":
        for step in _ANSWER.finditer(text):
            command = re.sub(r"^> ", "", step["command"], flags=re.M).rstrip("\n")
            yield Step(line + text.count("\n", 0, step.start()), command, step["shown"])
    elif language == "sh":
        for found in re.finditer(r"(?:.*\\\n)*.+", text):
            command = found[0] if fenced else re.sub(r"^ {4}", "", found[0], flags=re.M)
            yield Step(line + text.count("\n", 0, found.start()), command, None)
    else:
        raise ValueError(f"line {line}: this block is neither run nor does it say why")


def _writing(name: str, text: str) -> str:
    return f"cat > {name} <<'=== end of file ==='\n{text}=== end of file ==="


def run(
    todo: Sequence[Step], environment: Mapping[str, str], directory: Path, before: Sequence[str] = (), wait_s: float = 280
) -> list[Shown]:
    """What each step prints in one shell; `before` is put before the shell's words."""
    script = "\n".join(f"code=$?; echo '{_MARK}'; (exit $code)\n{_told(step)}" for step in todo)
    shell = subprocess.Popen(
        [*before, "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment, "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"},
        cwd=directory,
        start_new_session=True,
    )
    try:
        text = shell.communicate(timeout=wait_s)[0]
    except subprocess.TimeoutExpired as late:
        raise AssertionError(f"not done after {wait_s:.0f} s:\n{(late.stdout or b'').decode()[-2000:]}") from None
    finally:  # also what a page has put into the background and not ended
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    _, *printed = text.split(f"{_MARK}\n")
    assert len(printed) == len(todo), text[-2000:]
    return [Shown(step, each) for step, each in zip(todo, printed, strict=True)]


def _told(step: Step) -> str:
    return step.command if step.shown is not None else f'{step.command}\ncode=$?; [ $code = 0 ] || echo "exit code $code"'


def false(shown: Sequence[Shown], page: Path) -> list[str]:
    """What a page says otherwise than it is."""
    return [_said(step, printed, page) for step, printed in shown if not _agrees(step, printed)]


def _agrees(step: Step, printed: str) -> bool:
    if step.shown is None:
        return not re.search(r"^exit code \d+$", printed, re.M)
    return re.fullmatch(_pattern(step.shown), printed) is not None


def _pattern(text: str) -> str:
    rows = [r"(?:.*\n)*?" if row == "…\n" else re.escape(row).replace("…", ".*") for row in text.splitlines(keepends=True)]
    return "".join(rows).replace(re.escape("127.0.0.1:8777"), r"127\.0\.0\.1:\d+")


def _said(step: Step, printed: str, page: Path) -> str:
    wanted = "" if step.shown is None else f"the page says:\n{step.shown}"
    return f"{page.name}:{step.line}: $ {step.command}\n{printed}{wanted}"
