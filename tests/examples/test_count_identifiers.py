"""The script that the main job runs on its nodes, alone."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "count_identifiers.py"
sys.path.insert(0, str(SCRIPT.parent))

from count_identifiers import identifiers, table  # noqa: E402


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = y + x", {"x": 2, "y": 1}),
        ("if not x: return None", {"x": 1}),
        ("# x\ny", {"y": 1}),
        ("'x' + \"y\" + z", {"z": 1}),
        ("'it\\'s x' + z", {"z": 1}),
        ('"""x\n"y" \'z\'\n""" + w', {"w": 1}),
        ("rb'x' + f'{y}' + Rb'''z'''", {}),
        ("0xff + 1e5 + 1_000 + 2j + 1.e5 + .5e3", {}),
        ("x1.real", {"x1": 1, "real": 1}),
        ("größe = π", {"größe": 1, "π": 1}),
        ("\ufeffx", {"x": 1}),
        ("", {}),
    ],
)
def test_identifiers_outside_comments_and_strings_count(source: str, expected: dict[str, int]) -> None:
    assert identifiers(source.encode()) == expected


def test_a_file_that_is_not_utf8_is_counted_too() -> None:
    assert identifiers(b"# \xe9\xff\nx = 'caf\xe9'") == {"x": 1}


def test_partial_results_add_up_to_the_whole(tmp_path: Path) -> None:
    sources = {"a.py": b"x = y", "b.py": b"y = y + z"}
    (tmp_path / "partials").mkdir()
    for number, (name, source) in enumerate(sources.items()):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            archive.writestr(name, source)
        run("count", tmp_path / f"{number}.zip", tmp_path / "partials" / f"{number}.json")
    assert json.loads((tmp_path / "partials" / "1.json").read_text()) == {"y": 2, "z": 1}
    run("merge", tmp_path / "partials", tmp_path / "table.tsv")
    assert (tmp_path / "table.tsv").read_text() == table(identifiers(b"\n".join(sources.values()))) == "y\t3\nx\t1\nz\t1\n"


def run(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-I", SCRIPT, *words], check=True, stdout=subprocess.DEVNULL, timeout=60)
