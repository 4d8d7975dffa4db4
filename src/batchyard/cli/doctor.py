"""`batchyard doctor`: looks at a machine, says what it found and how to mend it; changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from batchyard.cli import daemon, tables
from batchyard.cli import output as documents
from batchyard.cli.checks.finding import Finding, Level, Place

_COLOURS = {Level.OK: "green", Level.NOTE: "yellow", Level.PROBLEM: "bold red"}


def doctor(*, directory: Path | None, host: str, port: int, output: str) -> int:
    """Check this machine and say how to mend what is wrong; exit code 1 when the server cannot work."""
    from batchyard.cli.checks import every

    found = list(every.findings(Place((directory or daemon.default_directory()).resolve(), host, port)))
    if output == "json":
        documents.document([dataclasses.asdict(finding) for finding in found], "json")
    else:
        _print(found)
    return int(any(finding.level is Level.PROBLEM for finding in found))


def _print(found: Sequence[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    shown = tables.console()
    made = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("", "CHECK", "FINDING", "WHAT TO DO"):
        made.add_column(head, overflow="fold", no_wrap=head in ("", "CHECK"))
    for one in found:
        made.add_row(Text(one.level, _COLOURS[one.level]), one.check, Text(one.finding), Text(one.mend))
    with shown.capture() as text:
        shown.print(made)
    print("\n".join(line.rstrip() for line in text.get().splitlines()))
    print(f"\n{summary(found)}")


def summary(found: Sequence[Finding]) -> str:
    """One sentence about all findings."""
    problems, notes = (sum(finding.level is level for finding in found) for level in (Level.PROBLEM, Level.NOTE))
    if problems:
        return f"{problems} problem{'s' * (problems > 1)} to mend before the server works."
    return (
        f"Nothing keeps the server from working; {notes} note{'s' * (notes != 1)}." if notes else "Nothing keeps the server from working."
    )
