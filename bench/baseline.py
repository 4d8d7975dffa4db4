"""What was reached before, so that it is not lost unseen: ratios against yardsticks of the same run, which other machines reach too.

A figure has fallen when it is more than a tenth under its recorded ratio; one bad run of three is the machine's, two are ours.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from table import Line

RECORDED = Path(__file__).with_name("baseline.json")
FEWEST_PAIRS = 5
"""A median of fewer pairs says too little."""
RUNS = 3
_LEAST = 0.9


def kept(lines: Iterable[Line]) -> dict[str, float]:
    """The ratios that are recorded, by name."""
    return {line.name: round(line.ratio, 3) for line in lines if line.kept and line.ratio is not None}


def fallen(lines: Iterable[Line], recorded: dict[str, float]) -> list[str]:
    """Names of the figures that are more than a tenth under what was recorded."""
    return [name for name, ratio in kept(lines).items() if ratio < recorded.get(name, 0.0) * _LEAST]


def lost(runs: Iterable[Iterable[str]]) -> list[str]:
    """What fell in at least two of the runs."""
    seen = Counter(name for names in runs for name in names)
    return [name for name, times in seen.items() if times >= 2]


def unseen(lines: Iterable[Line], recorded: Iterable[str]) -> list[str]:
    """Recorded figures that a run did not measure, and that may be lost unseen: of an agent, for instance, that isolates otherwise now."""
    return sorted({*recorded} - kept(lines).keys())


def held(lines: Sequence[Line], again: Callable[[list[str]], Sequence[Line]], recorded: dict[str, float]) -> list[str]:
    """What is lost; `again` measures once more, and is told what fell, as long as that can change the answer."""
    runs = [fallen(lines, recorded)]
    while runs[0] and len(runs) < RUNS and not lost(runs):
        runs.append(fallen(again(runs[0]), recorded))
    return lost(runs)


def read() -> dict[str, float]:
    """The recorded ratios; none when nothing was recorded."""
    found: dict[str, float] = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    return found


def write(lines: Iterable[Line]) -> None:
    """Record the ratios of a run; what it did not measure stays."""
    RECORDED.write_text(json.dumps(dict(sorted({**read(), **kept(lines)}.items())), indent=2, ensure_ascii=False) + "\n")
