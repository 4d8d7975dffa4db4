"""When a benchmark says that something was lost (bench/baseline.py)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def baseline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    for name in ("baseline", "table", "rounds", "meter", "server", "bodies"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import baseline

    monkeypatch.setattr(baseline, "RECORDED", tmp_path / "baseline.json")
    return baseline


def lines(**ratios: float) -> list[Any]:
    import table

    return [*(table.Line(name, "", ratio=ratio, kept=True) for name, ratio in ratios.items()), table.Line("loose", "", ratio=0.01)]


def test_a_figure_falls_when_it_is_more_than_a_tenth_under_its_record(baseline: Any) -> None:
    recorded = {"adds": 0.2, "gone": 0.4}
    assert baseline.fallen(lines(adds=0.181, no_op=0.3), recorded) == []
    assert baseline.fallen(lines(adds=0.179, no_op=0.3), recorded) == ["adds"]


@pytest.mark.parametrize(
    ("runs", "gone"),
    [([["a"]], []), ([["a"], []], []), ([["a"], [], ["a"]], ["a"]), ([["a"], ["b"], ["c"]], []), ([["a", "b"], ["b"]], ["b"])],
)
def test_a_figure_is_lost_when_it_fell_in_two_runs(baseline: Any, runs: Sequence[Sequence[str]], gone: list[str]) -> None:
    assert baseline.lost(runs) == gone


@pytest.mark.parametrize(
    ("ratios", "measured", "gone"),
    [([0.4], 0, []), ([0.3, 0.3], 1, ["adds"]), ([0.3, 0.4, 0.3], 2, ["adds"]), ([0.3, 0.4, 0.4], 2, []), ([0.3, 0.4, 0.4, 0.3], 2, [])],
)
def test_it_is_measured_again_only_while_that_can_change_the_answer(
    baseline: Any, ratios: Sequence[float], measured: int, gone: list[str]
) -> None:
    runs = [lines(adds=ratio) for ratio in ratios]
    told: list[list[str]] = []

    def again(fell: list[str]) -> Any:
        told.append(fell)
        return runs[len(told)]

    assert baseline.held(runs[0], again, {"adds": 0.4}) == gone
    assert told == [["adds"]] * measured


def test_what_is_recorded_and_was_not_measured_is_named(baseline: Any) -> None:
    assert baseline.unseen(lines(adds=0.2), {"adds": 0.2, "isolated": 0.3, "loose": 0.1}) == ["isolated", "loose"]


def test_what_a_run_did_not_measure_stays_recorded(baseline: Any) -> None:
    assert baseline.read() == {}
    baseline.write(lines(adds=0.2, no_op=0.3))
    baseline.write(lines(adds=0.25))
    assert baseline.read() == {"adds": 0.25, "no_op": 0.3}
