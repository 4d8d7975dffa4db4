"""`batchyard doctor`: looks at a machine, says what it found and how to mend it; changes nothing."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from batchyard.cli import daemon, tables
from batchyard.cli.checks.finding import Finding, Level, Place

_COLOURS = {Level.OK: "green", Level.NOTE: "yellow", Level.PROBLEM: "bold red"}


class Output(StrEnum):
    """How the findings are printed."""

    TABLE = "table"
    JSON = "json"


def doctor(
    directory: Annotated[
        Path,
        typer.Option("--dir", help="State directory to look at.", default_factory=daemon.default_directory, show_default="$BATCHYARD_DIR"),
    ],
    host: Annotated[str, typer.Option(help="Address that the server is to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port that the server is to listen on.")] = 8777,
    output: Annotated[Output, typer.Option("--output", "-o", help="table or json.")] = Output.TABLE,
) -> None:
    """Check this machine and say how to mend what is wrong; exit code 1 when the server cannot work."""
    from batchyard.cli.checks import every

    found = list(every.findings(Place(directory.resolve(), host, port)))
    if output is Output.JSON:
        json.dump([dataclasses.asdict(finding) for finding in found], sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        _print(found)
    if any(finding.level is Level.PROBLEM for finding in found):
        raise typer.Exit(1)


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


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)
