"""The autoscale grammar, and that nothing but a tree or one of the documented errors ever comes out of any text."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from autoscale_cases import history, run

from batchyard.rules.autoscale import EMPTY_SERIES, EVALUATION_ERROR, INSUFFICIENT_DATA, MOST_NODES, SERIES, WORDS, WRITABLE
from batchyard.rules.autoscale_functions import NAMES
from batchyard.rules.autoscale_syntax import DEEPEST, LONGEST_FORMULA, MOST_STATEMENTS, FormulaSyntaxError, FormulaTooLong, parse
from batchyard.rules.autoscale_values import INTERVALS


@pytest.mark.parametrize(
    "formula",
    [
        "", " \n\t", "// nothing", "a=1;", "a = 1 ;\n b = 2 // the end", "$a=$b", "a==b", "a?b:c?d:e", "f()", "f(1,2)", "a.b", "a.b()",
        "a.b(1).c", '"text"', "((((1))))", "--1", "!!1", "-!1", "a\n+\nb", "1;2;3", "(" * 4000 + "1" + ")" * 4000, "1" + "+1" * 4000,
        "a;" * MOST_STATEMENTS, "-" * (DEEPEST - 1) + "1", f"a={'1' * (LONGEST_FORMULA - 2)}", "a=1//b=2;", ";", "a=1;;", ";;a=1; ;\n;b",
        ";" * LONGEST_FORMULA, "1e5", "1.5E-3", "a=1\u00a0;",
    ],
)  # fmt: skip
def test_formulas(formula: str) -> None:
    parse(formula)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("a=", "Line 1, Col 3: Unexpected end of the formula"),
        ("a=1\n+", "Line 2, Col 2: Unexpected end of the formula"),
        ("a=1\nb=2", "Line 2, Col 1: Unexpected 'b'"),
        ("a=;", "Line 1, Col 3: Unexpected ';'"),
        ("1e", "Line 1, Col 2: Unexpected 'e'"),
        ("1e+", "Line 1, Col 2: Unexpected 'e'"),
        ("1=a", "Line 1, Col 2: Unexpected '='"),
        ("f(1)=a", "Line 1, Col 5: Unexpected '='"),
        ("a+=1", "Line 1, Col 3: Unexpected '='"),
        ("a b", "Line 1, Col 3: Unexpected 'b'"),
        ("f(,)", "Line 1, Col 3: Unexpected ','"),
        ("(1", "Line 1, Col 3: Unexpected end of the formula"),
        ("a?b", "Line 1, Col 4: Unexpected end of the formula"),
        ('"open', "Line 1, Col 1: Unexpected character '\"'"),
        ("a=1 # b", "Line 1, Col 5: Unexpected character '#'"),
        ("a%2", "Line 1, Col 2: Unexpected character '%'"),
        ("é", "Line 1, Col 1: Unexpected character 'é'"),
        ("$", "Line 1, Col 1: Unexpected character '$'"),
        ("٣", "Line 1, Col 1: Unexpected character '٣'"),
        ("a;" * MOST_STATEMENTS + "a", "Line 1, Col 201: A formula has at most 100 statements"),
        ("-" * DEEPEST + "1", "Line 1, Col 1: Expressions lie more than 100 deep within each other"),
    ],
)
def test_what_is_no_formula(formula: str, message: str) -> None:
    with pytest.raises(FormulaSyntaxError) as refused:
        parse(formula)
    assert str(refused.value) == message


def test_length() -> None:
    with pytest.raises(FormulaTooLong):
        parse("a" * (LONGEST_FORMULA + 1))


@pytest.mark.parametrize("opening", ["(", "f(", "-", "!", "a.b(", "1?", "1?1:", "1+(", "a=", "a&&(", "max(1,"])
def test_depth_is_an_error_not_a_crash(opening: str) -> None:
    with pytest.raises(FormulaSyntaxError):
        parse(opening * (LONGEST_FORMULA // len(opening)))


ALL_KINDS = ["-{}", "!{}", "({})+1", "({})&&a", "a&&({})", "a||({})", "({})?1:2", "a?({}):2", "f({})", "({}).b", "({}).b()", "a.b({})"]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_of_expression_counts_what_lies_below_it(kind: str) -> None:
    formula = "a"
    for _ in range(DEEPEST - 1):
        formula = kind.format(formula)
    parse(formula)
    with pytest.raises(FormulaSyntaxError, match="more than 100 deep"):
        parse(kind.format(formula))


SLOW_MACHINES = settings(deadline=None)
"""The first formula makes the parser."""


def only_documented(formula: str) -> None:
    """Evaluate; everything that may happen is a result or a documented error."""
    try:
        outcome = run(formula, history(1, 0, 5, 70, 3), dedicated=3, low_priority=2)
    except (FormulaSyntaxError, FormulaTooLong):
        return
    if outcome.failure is not None:
        assert outcome.failure.code in (EVALUATION_ERROR, INSUFFICIENT_DATA)
        assert outcome.failure.message.startswith("Line ")
        assert (outcome.dedicated, outcome.low_priority, outcome.option) == (3, 2, "requeue")
    assert 0 <= outcome.dedicated <= MOST_NODES
    assert 0 <= outcome.low_priority <= MOST_NODES
    assert outcome.option in WORDS
    assert outcome.results.startswith(f"$TargetDedicatedNodes={outcome.dedicated};$TargetLowPriorityNodes={outcome.low_priority};")
    for word in ("nan", "inf", "None", "True"):
        assert word not in outcome.results.replace("=info", "")


@SLOW_MACHINES
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    only_documented(text)


TOKENS = [
    *SERIES, *sorted(EMPTY_SERIES)[:2], *sorted(WORDS), *WRITABLE, *sorted(NAMES), *INTERVALS,
    *"a b $c ( ) , ; . ? : = + - * / < > !".split(),
    "==", "!=", "<=", ">=", "&&", "||", "0", "1", "70", "0.5", "1" * 320, '"x"', '"2016-10-13"', "\n", "//", ".GetSample(", ".hour", "é",
]  # fmt: skip


@SLOW_MACHINES
@example(["a", "=", "1" * 320])
@example(["a", "=", "9" * 300, "*", "9" * 300])
@given(st.lists(st.sampled_from(TOKENS), max_size=60))
def test_any_row_of_tokens(tokens: list[str]) -> None:
    only_documented(" ".join(tokens))


_NAMES = st.sampled_from([*SERIES, *sorted(EMPTY_SERIES), *sorted(WORDS), *WRITABLE, *INTERVALS, "a", "b", "$c"])
_ATOMS = _NAMES | st.sampled_from(
    [
        "0",
        "1",
        "2.5",
        "70",
        "1" * 309,
        "9" * 300,
        '"x"',
        '"2016-10-13T00:00:00Z"',
        "time()",
        "rand()",
        "stop()",
        "$ActiveTasks.GetSample(3)",
    ]
)
_SERIES = st.sampled_from([*SERIES, *sorted(EMPTY_SERIES), "a"])


def _wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    few = st.lists(inner, max_size=3).map(",".join)
    signs = st.sampled_from(["+", "-", "*", "/", "<", "<=", "==", ">=", ">", "!=", "&&", "||"])
    members = st.sampled_from(["year", "weekday", "hour", "foo"])
    methods = st.sampled_from(["GetSample", "GetSamplePercent", "GetSamplePeriod", "Count", "HistoryBeginTime", "Foo"])
    return st.one_of(
        st.tuples(inner, signs, inner).map("".join),
        st.tuples(st.sampled_from("-!"), inner).map("".join),
        inner.map("({})".format),
        st.builds("({}?{}:{})".format, inner, inner, inner),
        st.builds("{}({})".format, st.sampled_from(sorted(NAMES)), few),
        st.builds("{}.{}({})".format, _SERIES, methods, few),
        st.builds("({}).{}".format, inner, members),
    )


_EXPRESSIONS = st.recursive(_ATOMS, _wider, max_leaves=12)
_ASSIGNED = st.sampled_from(["a", "b", "$c", *WRITABLE, "$ActiveTasks"])
_STATEMENTS = _EXPRESSIONS | st.builds("{}={}".format, _ASSIGNED, _EXPRESSIONS)


@settings(SLOW_MACHINES, max_examples=300)
@given(st.lists(_STATEMENTS, min_size=1, max_size=8).map(";\n".join))
def test_any_formula_of_the_grammar(formula: str) -> None:
    parse(formula)
    only_documented(formula)
