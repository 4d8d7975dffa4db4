"""`batchyard autoscale`: how a pool was scaled lately and why, and formulas tried out on recorded samples.

A history file holds a sample per line as JSON, the oldest first; `trace --samples` writes one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchyard.cli import output as documents
from batchyard.cli import tables
from batchyard.cli.client import Client
from batchyard.cli.problem import Problem, Usage

if TYPE_CHECKING:
    from rich.tree import Tree

    from batchyard.model.autoscale import Sample
    from batchyard.rules.autoscale import Outcome
    from batchyard.rules.autoscale_syntax import Node

Found = Mapping[str, Any]


def trace(batch: Client, *, pool: str, runs: int, output: str, samples: bool) -> None:
    """Show the last evaluations of a pool's formula: what it saw, its variables, what was decided."""
    found = batch.get("batchyard", "autoscale", "pools", pool, **({"samples": "true"} if samples else {}))
    if samples:
        for sample in found.get("samples") or ():
            documents.document(sample, "jsonl")
    elif output == "json":
        documents.document({**found, "runs": found["runs"][:runs]}, "json")
    else:
        tables.console().print(tree(found, runs))


def tree(found: Found, most: int) -> Tree:
    """The report as a tree, the newest evaluation first."""
    from rich.text import Text
    from rich.tree import Tree

    size = f"{found['targetDedicatedNodes']} dedicated and {found['targetLowPriorityNodes']} low-priority nodes wanted"
    how = "autoscale is off"
    if found["enableAutoScale"]:
        how = f"evaluated every {found['autoScaleEvaluationInterval']}, next at {found['nextEvaluationTime']}"
    made = Tree(Text.assemble((f"pool {found['poolId']}", "bold"), f": {size}; {how}"))
    for run in found["runs"][:most]:
        branch = made.add(Text.assemble((run["run"]["timestamp"], "bold"), f" ({run['cause']}): {_decision(run)}"))
        error = run["run"].get("error")
        if error:
            details = "; ".join(value["value"] for value in error.get("values") or ())
            branch.add(Text(f"{error['code']}: {details}", "red"))
        for name, value in run["variables"].items():
            branch.add(Text(f"{name} = {value}"))
        seen = branch.add(Text(f"saw {run['sampleCount']} samples, the newest:"))
        for sample in reversed(run["samples"][-3:]):
            seen.add(Text(_sample(sample)))
    return made


def _decision(run: Found) -> str:
    decision = run["decision"]
    wanted = [
        f"{old} -> {new} {kind}" if old != new else f"{new} {kind}"
        for kind, old, new in (
            ("dedicated", decision["oldTargetDedicatedNodes"], decision["targetDedicatedNodes"]),
            ("low-priority", decision["oldTargetLowPriorityNodes"], decision["targetLowPriorityNodes"]),
        )
    ]
    return f"{', '.join(wanted)}, {decision['nodeDeallocationOption']}" if decision["resized"] else f"{', '.join(wanted)}, no resize"


def _sample(sample: Found) -> str:
    counters = [f"{name} {value}" for name, value in sample.items() if name != "timestamp"]
    return f"{sample['timestamp']}: {', '.join(counters) or 'nothing'}"


def try_out(*, formula: Path, history: Path | None, at: str | None, every: str | None, dedicated: int, low_priority: int) -> int:
    """Run a formula over recorded samples, without any server."""
    from batchyard.model import times

    if history is None:
        raise Usage("--history is missing: a file of recorded samples, as `batchyard autoscale trace POOL --samples` prints them")
    statements = _parsed(formula)
    samples = _samples(history)
    failed = False
    for now in _moments(samples, at, every):
        outcome = _evaluated(statements, samples, now, dedicated, low_priority)
        dedicated, low_priority = outcome.dedicated, outcome.low_priority
        print(f"{times.iso(now)}  {outcome.results}")
        if outcome.failure is not None:
            failed = True
            print(f"{times.iso(now)}  {outcome.failure.code}: {outcome.failure.message}", file=sys.stderr)
    return int(failed)


def _parsed(path: Path) -> Sequence[Node]:
    """Statements of a file. Raises Problem."""
    from batchyard.rules import autoscale_syntax as syntax

    try:
        return syntax.parse(path.read_text("utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"cannot read {path} ({error})") from None
    except syntax.FormulaTooLong:
        raise Problem(f"the formula in {path} has more than {syntax.LONGEST_FORMULA} characters") from None
    except syntax.FormulaSyntaxError as error:
        raise Problem(f"{path} is no formula. {error}") from None


def _samples(path: Path) -> list[Sample]:
    """Samples of a history file, the oldest first. Raises Problem."""
    import msgspec

    from batchyard.model import times
    from batchyard.model.autoscale import AutoScaleSample, Sample

    found: list[Sample] = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"cannot read {path} ({error})") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                given = msgspec.json.decode(line, type=AutoScaleSample)
                counters = msgspec.structs.asdict(given)
                del counters["timestamp"]
                kept = {name: value for name, value in counters.items() if value is not None}
                found.append(Sample(times.from_iso(given.timestamp), **kept))
            except (msgspec.MsgspecError, ValueError) as error:
                raise Problem(f"line {number} of {path} is no sample ({error})") from None
    return sorted(found, key=lambda sample: sample.at)


def _moments(samples: Sequence[Sample], at: str | None, every: str | None) -> Iterator[int]:
    """When to evaluate, in µs since 1970. Raises Problem."""
    from batchyard.model import times

    try:
        given = None if at is None else times.from_iso(at)
        step = None if every is None else times.duration(every)
    except ValueError as error:
        raise Problem(str(error)) from None
    if given is None and not samples:
        raise Problem("the history is empty; say with --at when to evaluate the formula")
    last = samples[-1].at if given is None else given
    if every is None:
        yield last
        return
    if not step or not samples:
        raise Problem("--every wants a finite duration longer than zero, and a history that is not empty")
    yield from range(samples[0].at, last + 1, step)


def _evaluated(statements: Sequence[Node], samples: Sequence[Sample], now: int, dedicated: int, low_priority: int) -> Outcome:
    """The formula at a time, which sees no sample of later; rand() gives the same each time."""
    from random import Random

    from batchyard.rules.autoscale import evaluate

    seen = [sample for sample in samples if sample.at <= now]
    return evaluate(statements, now=now, samples=seen, random=Random(0).random, dedicated=dedicated, low_priority=low_priority)
