"""File patterns: what they mean, and that no pattern and no tree takes more than a search may take."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.agent.transfer import finding, patterns
from batchyard.agent.transfer.finding import Bounds, Found
from batchyard.agent.transfer.stop import Cancelled, Stop


def never() -> None:
    """Nothing stops the search."""


def find(top: Path, pattern: str, bounds: Bounds | None = None) -> Found:
    base, below = patterns.split(pattern, str(top))
    return finding.find(base, below, never, bounds or Bounds())


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("*", ["a", "a.b"], [".a"]),
        (".*", [".a"], ["a"]),
        ("?", ["a", "\n"], [".", "ab"]),
        ("a*b*c", ["abc", "abbcc", "axbxc"], ["acb", "abcd"]),
        ("*a*a", ["aa", "baba"], ["a", "aab"]),
        ("*ab", ["ab", "aab", "abab"], ["aba"]),
        ("a**b", ["ab", "axb"], ["a"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "-x"]),
        ("[!a-c]x", ["dx"], ["ax", ".x"]),
        ("[]a]", ["]", "a"], ["[]a]"]),
        ("[!]a]", ["b"], ["]", "a"]),
        ("[a", ["[a"], ["a"]),
        ("[]", ["[]"], ["]"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("[z-a]", [], ["z", "a", "[z-a]"]),
        ("[!z-a]", ["x"], ["xx"]),
        ("[&&||~~-]", ["&", "|", "~", "-"], ["a"]),
        ("[^a]", ["^", "a"], ["b"]),
        ("[\\d]", ["\\", "d"], ["1"]),
        ("a.(b)+", ["a.(b)+"], ["axb"]),
    ],
)
def test_names(pattern: str, matching: list[str], other: list[str]) -> None:
    expression = patterns.matcher(pattern)
    assert [name for name in matching + other if expression.fullmatch(name)] == matching


@given(st.text("ab*?[]!-", max_size=12), st.text("ab-!", max_size=12))
def test_one_component_means_what_the_shells_patterns_mean(pattern: str, name: str) -> None:
    assert bool(patterns.matcher(pattern).fullmatch(name)) == fnmatch.fnmatchcase(name, pattern)


@given(
    st.lists(st.sampled_from(["**", "*", "a", "b", "[ab]"]), min_size=1, max_size=5),
    st.lists(st.sampled_from("abc"), min_size=1, max_size=5),
)
def test_components_are_matched_as_by_trying_everything(below: list[str], path: list[str]) -> None:
    def tries(parts: list[str], names: list[str]) -> bool:
        if not parts:
            return not names
        if parts[0] == "**":
            return bool(names) and (tries(parts[1:], names) or tries(parts, names[1:]) or len(parts) == len(names) == 1)
        return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and tries(parts[1:], names[1:])

    matching = patterns.Matching(below)
    state, matches = matching.start, False
    for name in path:
        state, matches = matching.after(state, name)
    assert matches == tries(below, path)


def test_stars_cost_no_more_than_their_number(place: Path) -> None:
    name = "a" * 255
    (place / name).touch()
    for pattern in ("*a" * 120 + "*b", "*?" * 250 + "b", "*[ab]" * 400 + "c", "*" * 4_000 + "b"):
        assert find(place, pattern).paths == []
    assert find(place, "*a" * 120).paths == [name]


def test_any_number_of_double_stars_looks_at_every_name_once(place: Path) -> None:
    deep = place
    for _ in range(40):
        deep /= "a"
        deep.mkdir()
        (deep / "f").touch()
    bounds = Bounds(names=81)  # the 80 that there are
    found = find(place, "**/a/" * 20 + "**/b", bounds)
    assert (found.paths, list(found.refused)) == ([], [])
    assert len(find(place, "**/a/**/a/**", bounds).paths) == 39
    assert len(find(place, "**/" * 900 + "f", bounds).paths) == 40


@pytest.mark.parametrize(
    ("bounds", "reason", "found"),
    [
        (Bounds(names=5), "after 5 names", 0),
        (Bounds(files=3), "more than 3 files match", 3),
        (Bounds(levels=2), "more than 2 directories deep", 10),
        (Bounds(seconds=-1), "after -1 s", 0),
    ],
)
def test_a_search_that_meets_a_bound_says_which_and_keeps_what_it_found(place: Path, bounds: Bounds, reason: str, found: int) -> None:
    (place / "d/e/f").mkdir(parents=True)
    for each in range(10):
        (place / f"d/{each}").touch()
    (place / "d/e/f/deep").touch()
    result = find(place, "**", bounds)
    assert reason in " ".join(result.refused)
    assert len(result.paths) == found


def test_links_that_multiply_are_bounded(place: Path) -> None:
    """Each directory twice in the one above: a million paths to one file."""
    for each in range(20):
        (place / f"d{each}").mkdir()
        for name in "xy":
            (place / f"d{each}" / name).symlink_to(f"../d{each + 1}")
    (place / "d20").mkdir()
    (place / "d20/file").touch()
    found = find(place, "d0/**", Bounds(names=2_000))
    assert "after 2000 names" in " ".join(found.refused)


def test_links_that_lead_back_are_followed_once(place: Path) -> None:
    (place / "a/b").mkdir(parents=True)
    (place / "a/b/up").symlink_to("..")
    (place / "a/self").symlink_to(".")
    (place / "a/root").symlink_to(place)
    (place / "a/f").touch()
    found = find(place, "**")
    assert found.paths == ["a/f"]
    assert sum("leads back" in sentence for sentence in found.skipped) == 3
    assert not found.refused.kept


def test_what_is_said_is_bounded_too(place: Path) -> None:
    for each in range(1_005):
        (place / f"{each:04}").symlink_to("nowhere")
    assert len(list(find(place, "*").skipped)) == 1_001
    assert list(find(place, "*").skipped)[-1] == "and 5 more"


def test_a_search_stops_when_its_attempt_is_killed(place: Path) -> None:
    stop = Stop()
    stop.set()
    (place / "a").touch()
    with pytest.raises(Cancelled):
        finding.find(str(place), ["*"], stop.check)


@pytest.mark.parametrize("pattern", ["a" * 5_000, "$LONG/x", "a\0b"])
def test_patterns_that_no_path_can_match_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="no path has more"):
        patterns.split(patterns.expand(pattern, {"LONG": "x" * 5_000}), "/")


def test_what_the_kernel_makes_up_is_no_file_of_a_task() -> None:
    for path in ("/proc/self/maps", "/proc/self/root/proc/self/maps", "/sys/kernel/uevent_seqnum"):
        with pytest.raises(OSError, match="no file on a disk"):
            os.close(finding.open_file(path))
