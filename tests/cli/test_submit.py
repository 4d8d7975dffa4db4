"""What submissions are made of, without a server."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.cli import follow, submit, tables
from batchyard.cli.problem import Problem
from batchyard.cli.submit import Wish

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_a_node_splits_a_command_into_the_words_that_were_given(words: list[str]) -> None:
    [task] = submit.tasks(Wish(words), "t", submit.values(None, None), "out")
    assert shlex.split(task["commandLine"]) == words


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (["echo", "{}"], ["echo", "a b"]),
        (["cp", "{}.in", "{}-{}.out"], ["cp", "a b.in", "a b-a b.out"]),
        (["wc", "-l"], ["wc", "-l", "a b"]),
    ],
)
def test_a_line_replaces_braces_or_is_added_as_one_word(words: list[str], made: list[str]) -> None:
    first, second = submit.tasks(Wish(words, env={"X": "<{}>"}), "t", submit.values(None, ["a b", "", "c"]), "out")
    assert (first["id"], second["id"]) == ("t-1", "t-2")
    assert shlex.split(first["commandLine"]) == made
    assert second["environmentSettings"] == [{"name": "X", "value": "<c>"}]


def test_braces_of_a_single_task_stay() -> None:
    [task] = submit.tasks(Wish(["find", "-exec", "ls", "{}", "+"]), "t", submit.values(None, None), "out")
    assert task == {"id": "t", "commandLine": "find -exec ls '{}' +"}


def test_an_array_has_a_task_for_each_number() -> None:
    assert list(submit.values("8-10", None)) == [("-8", {"": "8"}), ("-9", {"": "9"}), ("-10", {"": "10"})]


def test_values_are_made_when_they_are_asked_for() -> None:
    many = submit.values("1-999999999", None, ["a=x,y"])
    assert len(many) == 2 * 999_999_999
    assert next(iter(many)) == ("-1-1", {"": "1", "a": "x"})


def test_spans_and_combinations() -> None:
    assert [end for end, _ in submit.values("1-2,5", None)] == ["-1", "-2", "-5"]
    made = list(submit.values(None, ["l", "m"], ["a=x,y"]))
    assert made == [
        ("-1-1", {"": "l", "a": "x"}),
        ("-1-2", {"": "l", "a": "y"}),
        ("-2-1", {"": "m", "a": "x"}),
        ("-2-2", {"": "m", "a": "y"}),
    ]
    assert (len(submit.values(None, None)), list(submit.values(None, None))) == (1, [("", {})])


@pytest.mark.parametrize("array", ["", "5", "a-b", "9-8", "-1-3", "1-2-3", "1-9999999999"])
def test_a_wrong_array_is_refused(array: str) -> None:
    with pytest.raises(Problem, match="two numbers"):
        submit.values(array, None)


def test_lines_and_numbers_do_not_go_together_and_no_lines_are_no_tasks() -> None:
    with pytest.raises(Problem, match="do not go together"):
        submit.values("1-2", ["a"])
    with pytest.raises(Problem, match="no lines"):
        submit.values(None, ["", " "])


def test_options_of_a_task() -> None:
    wish = Wish(["true"], slots=2, retries=-1, after=["a", "b"], inputs=[{"httpUrl": "u", "filePath": "f"}])
    [task] = submit.tasks(wish, "t", submit.values(None, None), "out")
    assert task == {
        "id": "t",
        "commandLine": "true",
        "requiredSlots": 2,
        "constraints": {"maxTaskRetryCount": -1},
        "dependsOn": {"taskIds": ["a", "b"]},
        "resourceFiles": [{"httpUrl": "u", "filePath": "f"}],
    }


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("a.txt", "out/t/a.txt"),
        ("sub/a.txt", "out/t/sub/a.txt"),
        ("*.txt", "out/t"),
        ("sub/deep/*.txt", "out/t/sub/deep"),
        ("sub/**/x[0-9].txt", "out/t/sub"),
        ("../stdout.txt", "out/t/stdout.txt"),
        ("../std*.txt", "out/t"),
        ("/tmp/x/*", "out/t"),
    ],
)
def test_outputs_keep_their_path(pattern: str, path: str) -> None:
    [task] = submit.tasks(Wish(["true"], patterns=[pattern], drop_box="https://box"), "t", submit.values(None, None), "out")
    [output] = task["outputFiles"]
    assert output["filePattern"] == pattern
    assert output["destination"]["container"] == {"containerUrl": "https://box", "path": path}


def test_inputs_keep_their_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d" / "e").mkdir(parents=True)
    for name in ("d/a", "d/e/b", "c"):
        (tmp_path / name).touch()
    assert list(submit.input_files([Path("d"), Path("c")])) == ["d/a", "d/e/b", "c"]
    assert list(submit.input_files([Path("d/e/b")])) == ["d/e/b"]
    assert list(submit.input_files([tmp_path / "d" / "e"])) == ["e/b"]
    monkeypatch.chdir(tmp_path / "d")
    assert list(submit.input_files([Path("../c")])) == ["c"]
    with pytest.raises(Problem, match="would both be c"):
        submit.input_files([tmp_path / "c", Path("../d/../c")])
    with pytest.raises(Problem, match="no file x"):
        submit.input_files([Path("x")])


def test_variables_are_pairs() -> None:
    assert submit.variables(["A=b=c", "E="]) == {"A": "b=c", "E": ""}
    for wrong in ("A", "=b"):
        with pytest.raises(Problem, match="NAME=VALUE"):
            submit.variables([wrong])


class TakesSome:
    """A server that takes tasks but for those named bad."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def post(self, *path: str, body: Any) -> dict[str, Any]:
        assert path == ("jobs", "j", "addtaskcollection")
        self.sizes.append((len(body["value"]), len(json.dumps(body))))
        wrong = {"code": "InvalidPropertyValue", "message": {"value": "Not good.\nRequestId:1"}}
        refused = {"status": "clienterror", "error": wrong}
        return {"value": [{"taskId": one["id"], **(refused if one["id"] == "bad" else {"status": "Success"})} for one in body["value"]]}


def test_many_tasks_go_in_calls_that_the_service_takes() -> None:
    server: Any = TakesSome()
    small = [{"id": f"s{number}", "commandLine": "true"} for number in range(230)]
    big = [{"id": f"b{number}", "commandLine": "x" * 400_000} for number in range(3)]
    assert list(submit.send(server, "j", iter([*small, *big]))) == [task["id"] for task in [*small, *big]]
    assert [count for count, _ in server.sizes] == [100, 100, 32, 1]
    assert max(size for _, size in server.sizes) < 1 << 20


def test_the_first_refused_task_is_named_after_all_were_sent() -> None:
    server: Any = TakesSome()
    taken = submit.send(server, "j", iter([{"id": "bad"}, {"id": "good"}]))
    assert next(taken) == "good"
    with pytest.raises(Problem, match=r"refused the task bad: Not good \(InvalidPropertyValue\)"):
        next(taken)


@pytest.mark.parametrize(
    ("info", "code"),
    [
        ({"result": "success", "exitCode": 0}, 0),
        ({"result": "success", "exitCode": 7}, 0),
        ({"result": "failure", "exitCode": 7}, 7),
        ({"result": "failure", "exitCode": 256}, 1),
        ({"result": "failure", "exitCode": -9}, 1),
        ({"result": "failure", "exitCode": 0}, 1),
        ({"result": "failure"}, 1),
    ],
)
def test_exit_code_of_a_task(info: dict[str, Any], code: int) -> None:
    assert follow.exit_code({"executionInfo": info}) == code


@pytest.mark.parametrize(("codes", "code"), [([], 0), ([7], 7), ([0, 0], 0), ([0, 7], 1)])
def test_exit_code_of_several(codes: list[int], code: int) -> None:
    assert follow.overall(codes) == code


def test_why_a_task_failed() -> None:
    details = [{"name": "BlobSource", "value": "http://x"}, {"name": "Message", "value": "long"}]
    failure = {"code": "BlobNotFound", "category": "usererror", "message": "It was not found.", "details": details}
    task = {"id": "t", "executionInfo": {"result": "failure", "failureInfo": failure}}
    assert follow.verdict(task) == "t failed: It was not found (BlobNotFound); BlobSource: http://x"
    plain = {"id": "t", "executionInfo": {"result": "failure", "exitCode": 3, "failureInfo": {"code": "FailureExitCode"}}}
    assert follow.verdict(plain) == "t failed with exit code 3"


@pytest.mark.parametrize(
    ("start", "end", "text"),
    [
        ("2030-01-01T12:00:00Z", "2030-01-01T12:00:00.4321234Z", "0.4s"),
        ("2030-01-01T11:59:30Z", "2030-01-01T11:59:55Z", "25s"),
        ("2030-01-01T11:59:00Z", None, "60s"),
        ("2030-01-01T11:50:00Z", None, "10m"),
        ("2030-01-01T02:10:00Z", None, "9h"),
        ("2029-12-01T02:10:00Z", None, "31d"),
        ("2030-01-01T12:00:05Z", None, "0s"),
    ],
)
def test_times_in_tables(start: str, end: str | None, text: str) -> None:
    assert tables.between(start, end, NOW) == text
