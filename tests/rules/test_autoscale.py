"""What autoscale formulas mean: the examples of contract 6.11, then types, operators, functions, variables and sampling one by one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from autoscale_cases import NOW, SLOT, failure, history, run, value

from batchyard.model.autoscale import SAMPLE_PERIOD_US, Sample
from batchyard.rules.autoscale import EMPTY_SERIES, LONGEST_RESULTS, MOST_NODES, SERIES

NOTHING = "$TargetDedicatedNodes=0;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue"
EXAMPLE_4 = (
    "p=$PendingTasks.GetSamplePercent(3*TimeInterval_Minute); s=p<70?1:avg($PendingTasks.GetSample(3*TimeInterval_Minute));"
    " $TargetDedicatedNodes=min(25,s); $NodeDeallocationOption=taskcompletion;"
)
EXAMPLE_8 = (
    "max=25; $TargetDedicatedNodes=min(max,$PreemptedNodeCount.GetSample(180*TimeInterval_Second));"
    " $TargetLowPriorityNodes=max-$TargetDedicatedNodes;"
)
EVALUATION, SCARCE = "AutoScalingFormulaEvaluationError", "InsufficientSampleData"


class TestExamples:
    """Contract 6.11, by number."""

    def test_1(self) -> None:
        assert run("$TargetDedicatedNodes=3;").results == NOTHING.replace("Nodes=0", "Nodes=3", 1)

    def test_2(self) -> None:
        assert failure("something_useless") == (EVALUATION, "Line 1, Col 1: Undefined symbol: something_useless")

    def test_3(self) -> None:
        formula = "$now=time();$wh=$now.hour>=8&&$now.hour<18;$wd=$now.weekday<=5;$b=$wh&&$wd;$TargetDedicatedNodes=$b?20:10;"
        assert run(formula).results == (
            "$TargetDedicatedNodes=10;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue;"
            "$b=0;$now=2016-10-13T19:18:47.805Z;$wd=1;$wh=0"
        )

    def test_4(self) -> None:
        outcome = run(EXAMPLE_4)
        assert (outcome.dedicated, outcome.option, dict(outcome.variables)) == (1, "taskcompletion", {"p": "0", "s": "1"})

    def test_5(self) -> None:
        assert run(EXAMPLE_4, history(*[40] * 6)).dedicated == 25

    def test_6(self) -> None:
        formula = "$TargetDedicatedNodes=min(10,$PendingTasks.GetSample(180*TimeInterval_Second,70));"
        message = "Line 1, Col 44: Insufficient data from data set: $PendingTasks wanted 70%, received 50%"
        assert failure(formula, history(1, 1, 1)) == (SCARCE, message)

    def test_7(self) -> None:
        formula = "n=max($ActiveTasks.GetSample(1)); $TargetDedicatedNodes=n>0?ceil(n/$TaskSlotsPerNode):0;"
        assert run(formula, history(10, task_slots_per_node=4)).dedicated == 3

    def test_8(self) -> None:
        outcome = run(EXAMPLE_8, history(*[0] * 6, preempted_node_count=6))
        assert (outcome.dedicated, outcome.low_priority) == (6, 19)

    def test_9(self) -> None:
        monday = NOW - 3 * 86_400_000_000
        formula = "$TargetDedicatedNodes=time().weekday==1?5:1;"
        assert (run(formula, now=monday).dedicated, run(formula).dedicated) == (5, 1)

    @pytest.mark.parametrize("formula", ["$TargetDedicated=2;$TargetDedicatedNodes=4;", "$TargetDedicatedNodes=4;$TargetDedicated=2;"])
    def test_10(self, formula: str) -> None:
        assert run(formula).dedicated == 4


IDLE = "(avg($CPUPercent.GetSample(TimeInterval_Hour)) < 0.2)"
BUSY = "(min($CPUPercent.GetSample(10 * TimeInterval_Minute)) > 0.7)"
QUEUE = "avg($PendingTasks.GetSample(3 * TimeInterval_Minute))"


@pytest.mark.parametrize(
    ("formula", "nodes"),
    [
        # grow and shrink by processor load, under the names of today and of before; nobody has the data, so the pool stays
        (f"n = {BUSY} ? ($CurrentDedicatedNodes * 1.1) : $CurrentDedicatedNodes; n = {IDLE} ? ($CurrentDedicatedNodes * 0.9) : n;\n"
         "$TargetDedicatedNodes = min(400, n)", (6, 0)),
        (f"n = {BUSY} ? ($CurrentDedicated*1.1) : $CurrentDedicated; n = {IDLE} ? ($CurrentDedicated*0.9) : n; $TargetDedicated=min(40,n);",
         (6, 0)),
        ("n=($CPUPercent.GetSamplePercent(TimeInterval_Minute*0,TimeInterval_Minute*10)<0.7?5:($CurrentDedicated*1.1));$TargetDedicated=n;",
         (5, 0)),
        # the newest sample used as a number
        ("q = $PendingTasks.GetSample(1);\nw = max(1, min(20, q / 4));\n$TargetDedicatedNodes = w;\n"
         "$TargetLowPriorityNodes = w / 2;", (2, 1)),
        ("$tasks = $ActiveTasks.GetSample(1); $n = $tasks > 0 ? $tasks : $TargetDedicatedNodes / 2; $TargetDedicatedNodes = $n;", (7, 0)),
        ("$TargetDedicatedNodes = ($PendingTasks.GetSample(1) > 0 || $RunningTasks.GetSample(1) > 0) ? 4 : 0;", (4, 0)),
        ("$TargetLowPriorityNodes = $PendingTasks.GetSample(1) / $TaskSlotsPerNode.GetSample(1);", (6, 4)),
        ("$TargetDedicatedNodes = max(0, $PendingTasks);", (8, 0)),
        # empty statements, as where pieces of text are put together
        (f";start = 1;; most = 25;\n;p = $PendingTasks.GetSamplePercent(180 * TimeInterval_Second); s = p < 70 ? start : {QUEUE};;\n"
         "$TargetDedicatedNodes = min(most, s);;", (1, 0)),
        # numbers with an exponent, blanks of a web page
        ("most = 1e2; share = 2.5e-1;\u00a0$TargetDedicatedNodes = min(most, $PendingTasks.GetSample(1) * share);", (2, 0)),
        # a first size, and then none when nothing ran for a while
        ('first = 4; $TargetDedicated = first; age = time() - time("Thu, 13 Oct 2016 19:16:00 GMT"); early = TimeInterval_Minute * 10;'
         "$TargetDedicated = (age > early ? (max($RunningTasks.GetSample(early, 50), $ActiveTasks.GetSample(early, 50)) == 0 ? 0 : first)"
         " : first);", (4, 0)),
    ],
)  # fmt: skip
def test_shapes_that_public_documentation_prints(formula: str, nodes: tuple[int, int]) -> None:
    samples = history(3, 4, 5, 7, running_tasks=1, task_slots_per_node=2, current_dedicated_nodes=6)
    outcome = run(formula, samples, dedicated=6)
    assert outcome.failure is None
    assert (outcome.dedicated, outcome.low_priority) == nodes


@pytest.mark.parametrize(
    ("expression", "printed"),
    [
        ("1+2*3-4/8", "6.5"), ("(1+2)*3", "9"), ("-2*-3", "6"), ("10-3-2", "5"), ("100/10/5", "2"), ("1/3", "0.3333333333333333"),
        ("!0", "1"), ("!3", "0"), ("!!3", "1"), ("1<2", "1"), ("2<=1", "0"), ("1==1", "1"), ("1!=1", "0"), ("2>=3", "0"), ("3>2>0", "1"),
        ("2==1<1", "1"), ("1<1==0", "1"),
        ("1&&0||1", "1"), ("0||0", "0"), ("5||1/0", "1"), ("0&&1/0", "0"), ("0&&1", "0"), ("1?2:1/0", "2"), ("0?1/0:0?2:3", "3"),
        ("1+1==2&&2>1", "1"), ("1+(2?3:4)", "4"), (".5", "0.5"), ("100000000000000000000000", "1e+23"), ("-0", "0"),
        ("1e3", "1000"), ("1.5E-3", "0.0015"), (".5e+1", "5"), ("2e0+1", "3"),
        ('"a"=="a"', "1"), ('"a"<"b"', "1"), ('"a // no comment"', "a // no comment"), ("requeue==requeue", "1"), ("requeue", "requeue"),
        ("TimeInterval_Minute", "00:01:00"), ("3*TimeInterval_Minute", "00:03:00"), ("TimeInterval_Hour*1.5", "01:30:00"),
        ("TimeInterval_Day/2", "12:00:00"), ("TimeInterval_Week+TimeInterval_Hour", "7.01:00:00"), ("-TimeInterval_Second", "-00:00:01"),
        ("TimeInterval_Year", "365.00:00:00"), ("TimeInterval_100ns", "00:00:00.0000001"), ("TimeInterval_Zero", "00:00:00"),
        ("TimeInterval_Millisecond==1000*TimeInterval_Microsecond", "1"), ("TimeInterval_Minute>TimeInterval_Second", "1"),
        ("time()", "2016-10-13T19:18:47.805Z"), ("time()+TimeInterval_Day", "2016-10-14T19:18:47.805Z"),
        ("TimeInterval_Day+time()", "2016-10-14T19:18:47.805Z"), ("time()-TimeInterval_Hour", "2016-10-13T18:18:47.805Z"),
        ('time()-time("2016-10-13T19:18:00Z")', "00:00:47.8050000"), ('time("2016-10-13")<time()', "1"),
        ('time("Thu, 13 Oct 2016 19:00:00 GMT")', "2016-10-13T19:00:00.000Z"), ('time("10/13/2016")', "2016-10-13T00:00:00.000Z"),
        ('time("10/13/2016 7:05:01")', "2016-10-13T07:05:01.000Z"), ("time().year", "2016"), ("time().month", "10"), ("time().day", "13"),
        ("time().hour", "19"), ("time().minute", "18"), ("time().second", "47"), ("time().weekday", "4"),
        ('time("2016-10-16").weekday', "7"), ("(time()+TimeInterval_Day).day", "14"),
    ],
)  # fmt: skip
def test_operators(expression: str, printed: str) -> None:
    assert value(expression) == printed


@pytest.mark.parametrize(
    ("expression", "printed"),
    [
        ("avg(1,2,6)", "3"), ("max(1,5,2)", "5"), ("min(4,2,3)", "2"), ("sum(1,2,3)", "6"), ("sum()", "0"), ("range(3,9,4)", "6"),
        ("std(2,4,4,4,5,5,7,9)", "2.138089935299395"), ("std(3)", "0"), ("norm(3,4)", "5"), ("len(1,2,3)", "3"), ("len()", "0"),
        ("percentile(s,50)", "2"), ("percentile(s,0)", "1"), ("percentile(s,100)", "3"), ("percentile(s,25)", "1.5"), ("val(s,0)", "1"),
        ("val(s,2)", "3"), ("ceil(1.2)", "2"), ("floor(-1.2)", "-2"), ("round(2.5)", "3"), ("round(-2.5)", "-3"), ("round(2.4)", "2"),
        ("ceil(s*0.6)", "[1,2,2]"), ("ceil(1.5,s)", "[2,1,2,3]"), ("lg(8)", "3"), ("ln(1)", "0"), ("log(1000)", "3"), ("rand()", "0.25"),
        ("lg(s*s)", "[0,2,3.169925001442312]"), ("max(s)", "3"), ("max(s,7,s)", "7"), ("s+1", "[2,3,4]"), ("1-s", "[0,-1,-2]"),
        ("s*s", "[1,4,9]"), ("6/s", "[6,3,2]"), ("s/2-s", "[-0.5,-1,-1.5]"), ("min(max(0,s),2)", "2"), ("time().hour+len(s)", "22"),
        ("s/n", "[0.3333333333333333,0.6666666666666666,1]"), ("n*s", "[3,6,9]"), ("n+n", "[6]"), ("n>2", "1"), ("n==n", "1"),
        ("3<=n", "1"),
        ("n?n:0", "[3]"), ("n&&0||n>n", "0"), ("!n", "0"), ("-n", "-3"), ("n*TimeInterval_Minute", "00:03:00"),
        ("TimeInterval_Hour/n", "00:20:00"), ("percentile(s,n)", "1.06"), ("val(s,n-1)", "3"), ("len($ActiveTasks.GetSample(n))", "3"),
        ("min(8,n/2)", "1.5"), ("val(n,0)", "3"),
    ],
)  # fmt: skip
def test_functions(expression: str, printed: str) -> None:
    """`s` has three elements, `n` is a vector of one, which counts as a number where one is meant."""
    outcome = run(f"s=$ActiveTasks.GetSample(3);n=$ActiveTasks.GetSample(1);x={expression};", history(1, 2, 3))
    assert outcome.failure is None
    assert outcome.variables["x"] == printed


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("a=1;\n b=a/0", "Line 2, Col 5: Division by zero"),
        ("$x=1;x", "Line 1, Col 6: Undefined symbol: x"),
        ("$TargetDedicatednodes", "Line 1, Col 1: Undefined symbol: $TargetDedicatednodes"),
        ("nothing(1)", "Line 1, Col 1: Undefined symbol: nothing"),
        ("1+time()", "Line 1, Col 2: Operator + does not go with a double and a timestamp"),
        ("time()+time()", "Line 1, Col 7: Operator + does not go with a timestamp and a timestamp"),
        ('"a"+"b"', "Line 1, Col 4: Operator + does not go with a string and a string"),
        ('1=="a"', "Line 1, Col 2: Operator == does not go with a double and a string"),
        ("a=ceil(1,2);a==a", "Line 1, Col 14: Operator == does not go with a doubleVec and a doubleVec"),
        ("ceil(1,2)+ceil(1,2,3)", "Line 1, Col 10: Vectors of 2 and 3 elements do not go together"),
        ("TimeInterval_Day*TimeInterval_Day", "Line 1, Col 17: Operator * does not go with a timeinterval and a timeinterval"),
        ('"a"?1:2', "Line 1, Col 1: A double is wanted, not a string"),
        ("-time()", "Line 1, Col 1: A double is wanted, not a timestamp"),
        ("avg()", "Line 1, Col 1: avg wants at least one element"),
        ("max($ActiveTasks.GetSample(1))", "Line 1, Col 1: max wants at least one element"),
        ("ln(0)", "Line 1, Col 1: ln is not defined for such numbers"),
        ("percentile(ceil(1,2),101)", "Line 1, Col 1: A percentile lies between 0 and 100"),
        ("percentile(1,1)", "Line 1, Col 1: percentile wants a doubleVec and a double"),
        ("val(ceil(1,2),2)", "Line 1, Col 1: There is no element 2 in a vector of 2"),
        ("avg(time())", "Line 1, Col 1: A double or doubleVec is wanted, not a timestamp"),
        ("rand(1)", "Line 1, Col 1: rand takes no arguments"),
        ("stop(1)", "Line 1, Col 1: stop takes no arguments"),
        ("time(1)", "Line 1, Col 1: time takes nothing or a string"),
        ('time("soon")', 'Line 1, Col 1: "soon" is no time'),
        ("time().century", "Line 1, Col 8: A timestamp has no member century"),
        ("a=1;a.hour", "Line 1, Col 7: Only a timestamp has members, not a double"),
        ("a=1;a.GetSample(1)", "Line 1, Col 7: Only a variable of the service has the method GetSample"),
        ("$ActiveTasks.GetSample(0)", "Line 1, Col 14: GetSample wants at least one sample"),
        ("$ActiveTasks.GetSample()", "Line 1, Col 14: A window has a start and perhaps an end"),
        ('$ActiveTasks.GetSample("x")', "Line 1, Col 14: A window is given by timeintervals or timestamps, not a string"),
        ("$ActiveTasks.Average(1)", "Line 1, Col 14: $ActiveTasks has no method Average with 1 arguments"),
        ("$ActiveTasks=1", "Line 1, Col 1: $ActiveTasks cannot be assigned to"),
        ("$CPUPercent=1", "Line 1, Col 1: $CPUPercent cannot be assigned to"),
        ("requeue=1", "Line 1, Col 1: requeue cannot be assigned to"),
        ("TimeInterval_Day=1", "Line 1, Col 1: TimeInterval_Day cannot be assigned to"),
        ("$TargetDedicatedNodes=time()", "Line 1, Col 1: A double is wanted, not a timestamp"),
        ("$TargetLowPriority=$ActiveTasks.GetSample(1)", "Line 1, Col 1: A double is wanted, not a doubleVec"),
        (
            '$NodeDeallocationOption="requeue"',
            "Line 1, Col 1: $NodeDeallocationOption takes one of requeue, retaineddata, taskcompletion, terminate",
        ),
        ("a=ceil(1,2);a?1:2", "Line 1, Col 13: A double is wanted, not a doubleVec"),
        ("a=ceil(1,2);a>1", "Line 1, Col 14: Operator > does not go with a doubleVec and a double"),
        ("$TargetDedicated=ceil(1,2)", "Line 1, Col 1: A double is wanted, not a doubleVec"),
        ("$CurrentDedicated=1", "Line 1, Col 1: $CurrentDedicated cannot be assigned to"),
        ("1e999", "Line 1, Col 1: The number is too large"),
        ("9" * 400, "Line 1, Col 1: The number is too large"),
        (f"a={'9' * 300};a*a", "Line 1, Col 305: The number is too large"),
        ("time()+9000*TimeInterval_Year", "Line 1, Col 7: The timestamp is not within the years 1 to 9999"),
        ("TimeInterval_Year*99999999", "Line 1, Col 18: The time interval is too long"),
        ("x=ceil(1,2);" + "x=ceil(x,x);" * 30, "Line 1, Col 159: A vector has at most 10000 elements"),
    ],
)
def test_evaluation_errors(formula: str, message: str) -> None:
    assert failure(formula) == (EVALUATION, message)


def test_steps_are_bounded() -> None:
    formula = "x=ceil(1,1);" + "x=ceil(x,x);" * 12 + ";".join(["y=" + "+".join(["x"] * 40)] * 80)
    assert failure(formula)[1].endswith("The evaluation takes too many steps")


class TestTargets:
    """The writable variables (contract 6.5)."""

    @pytest.mark.parametrize(
        ("given", "target"),
        [("2.99", 2), ("-1", 0), ("-0.5", 0), ("0", 0), ("1000000", MOST_NODES), ("99999999999999999999999999", MOST_NODES)],
    )
    def test_bounds(self, given: str, target: int) -> None:
        outcome = run(f"$TargetDedicatedNodes={given};$TargetLowPriorityNodes={given}", dedicated=5)
        assert (outcome.dedicated, outcome.low_priority) == (target, target)
        assert outcome.results.startswith(f"$TargetDedicatedNodes={target};$TargetLowPriorityNodes={target};")

    def test_what_is_not_assigned_stays(self) -> None:
        outcome = run("$TargetLowPriorityNodes=$TargetDedicatedNodes+1", dedicated=4, low_priority=9)
        assert (outcome.dedicated, outcome.low_priority) == (4, 5)

    def test_aliases(self) -> None:
        outcome = run("$TargetDedicated=2;$TargetLowPriority=$TargetDedicatedNodes+$TargetDedicated", dedicated=9)
        assert (outcome.dedicated, outcome.low_priority) == (2, 4)
        assert run("a=$TargetDedicated;b=$TargetLowPriority", dedicated=9, low_priority=1).variables == {"a": "9", "b": "1"}

    @pytest.mark.parametrize("word", ["requeue", "terminate", "taskcompletion", "retaineddata"])
    def test_options(self, word: str) -> None:
        outcome = run(f"$NodeDeallocationOption={word};a=$NodeDeallocationOption=={word}")
        assert (outcome.option, outcome.variables["a"]) == (word, "1")

    def test_stop_keeps_what_is_set(self) -> None:
        outcome = run("$TargetDedicatedNodes=3;1?stop():0;$TargetDedicatedNodes=9;a=1/0")
        assert (outcome.dedicated, outcome.failure) == (3, None)

    def test_own_names_may_be_those_of_functions(self) -> None:
        assert run("max=3;$time=max(max,2);$TargetDedicatedNodes=$time").results.endswith("=requeue;max=3;$time=3")

    def test_the_order_of_own_variables(self) -> None:
        assert run("$b=1;a=2;$A2=3;C=4").results.partition("requeue;")[2] == "a=2;$A2=3;$b=1;C=4"

    def test_long_values_are_printed_in_part(self) -> None:
        printed = run(f'v=$ActiveTasks.GetSample(999);s="{"x" * 999}"', history(*range(150))).variables
        assert printed["v"].endswith(",28,29,...]")
        assert printed["s"] == "x" * 200

    def test_results_are_bounded_and_end_with_a_whole_variable(self) -> None:
        formula = "".join(f"v{number:02}=rand()*$ActiveTasks.GetSample(100)/3;" for number in range(60))
        outcome = run(formula, history(*range(1, 151)))
        printed = outcome.results.partition("requeue;")[2]
        assert LONGEST_RESULTS * 0.8 < len(outcome.results) <= LONGEST_RESULTS
        assert printed == "".join(f"{name}={value};" for name, value in outcome.variables.items()) + "..."
        assert list(outcome.variables) == [f"v{number:02}" for number in range(len(outcome.variables))]
        assert run("a=1;b=2", history(1)).results.endswith(";a=1;b=2")

    @pytest.mark.parametrize(
        "end", [";$TargetDedicatedNodes=100000;$TargetLowPriorityNodes=100000;$NodeDeallocationOption=taskcompletion", ";1/0"]
    )
    def test_one_name_may_be_as_long_as_a_formula(self, end: str) -> None:
        outcome = run(f"{'n' * (LONGEST_RESULTS - 200)}=1{end}", dedicated=MOST_NODES, low_priority=MOST_NODES)
        assert len(outcome.results) <= LONGEST_RESULTS


class TestSampling:
    """Windows over a history (contract 6.7)."""

    @pytest.mark.parametrize(
        ("expression", "printed"),
        [
            ("GetSample(1)", "[6]"), ("GetSample(3)", "[4,5,6]"), ("GetSample(99)", "[1,2,3,4,5,6]"),
            ("GetSample(TimeInterval_Minute)", "[5,6]"), ("GetSample(TimeInterval_Minute,100)", "[5,6]"),
            ("GetSample(TimeInterval_Minute*3,100)", "[1,2,3,4,5,6]"), ("GetSample(TimeInterval_Hour)", "[1,2,3,4,5,6]"),
            ("GetSample(TimeInterval_Hour,5)", "[1,2,3,4,5,6]"), ("GetSample(TimeInterval_Minute,2*TimeInterval_Minute)", "[3,4]"),
            ("GetSample(2*TimeInterval_Minute,TimeInterval_Minute,100)", "[3,4]"), ("GetSample(time()-TimeInterval_Minute)", "[5,6]"),
            ("GetSample(time()-TimeInterval_Minute,time(),100)", "[5,6]"), ("GetSample(TimeInterval_Zero)", "[]"),
            ("GetSample(-TimeInterval_Minute)", "[]"), ("GetSamplePeriod()", "00:00:30"), ("Count()", "6"),
            ("HistoryBeginTime()", "2016-10-13T19:16:00.000Z"), ("GetSamplePercent(3*TimeInterval_Minute)", "100"),
            ("GetSamplePercent(6*TimeInterval_Minute)", "50"), ("GetSamplePercent(4*TimeInterval_Minute,3*TimeInterval_Minute)", "0"),
            ("GetSamplePercent(TimeInterval_Minute,5*TimeInterval_Minute)", "50"), ("GetSamplePercent(TimeInterval_Second)", "0"),
        ],
    )  # fmt: skip
    def test_methods(self, expression: str, printed: str) -> None:
        assert value(f"$ActiveTasks.{expression}", history(1, 2, 3, 4, 5, 6)) == printed

    def test_a_sample_at_the_edge_belongs_to_one_window(self) -> None:
        """A window is open where it starts, so that as many samples are in it as are expected."""
        outcome = run(
            "a=$ActiveTasks.GetSample(TimeInterval_Minute,100);b=$ActiveTasks.GetSample(TimeInterval_Minute,2*TimeInterval_Minute);",
            history(1, 2, 3, 4, 5, 6),
            now=SLOT,
        )
        assert (outcome.variables["a"], outcome.variables["b"]) == ("[5,6]", "[3,4]")

    def test_stale_samples_are_counted_by_number_not_by_time(self) -> None:
        """The server was away for an hour."""
        stale = history(7, 8, newest=SLOT - 120 * SAMPLE_PERIOD_US)
        assert value("$ActiveTasks.GetSample(1)", stale) == "[8]"
        assert value("$ActiveTasks.GetSample(5*TimeInterval_Minute)", stale) == "[]"
        assert value("$ActiveTasks.GetSamplePercent(5*TimeInterval_Minute)", stale) == "0"
        message = "Line 1, Col 14: Insufficient data from data set: $ActiveTasks wanted 1%, received 0%"
        assert failure("$ActiveTasks.GetSample(5*TimeInterval_Minute,1)", stale) == (SCARCE, message)

    def test_gaps_count_against_the_window(self) -> None:
        gap = [sample for number, sample in enumerate(history(1, 2, 3, 4, 5, 6)) if number != 2]
        assert value("floor($ActiveTasks.GetSamplePercent(3*TimeInterval_Minute))", gap) == "83"
        assert failure("$ActiveTasks.GetSample(3*TimeInterval_Minute,84)", gap)[1].endswith("wanted 84%, received 83%")

    def test_no_samples_at_all(self) -> None:
        assert value("max(0,$ActiveTasks.GetSample(1))") == "0"
        assert value("$ActiveTasks.Count()") == "0"
        for formula in ("$ActiveTasks", "$ActiveTasks.HistoryBeginTime()"):
            code, message = failure(formula)
            assert code == SCARCE
            assert message.endswith("Insufficient data from data set: $ActiveTasks has no samples")

    def test_every_variable_is_the_latest_of_its_series(self) -> None:
        sample = Sample(
            SLOT, active_tasks=1, running_tasks=2, succeeded_tasks=4, failed_tasks=5, active_task_slots=6, running_task_slots=7,
            task_slots_per_node=8, current_dedicated_nodes=9, current_low_priority_nodes=10, preempted_node_count=11,
            usable_node_count=12, sample_node_count=13,
        )  # fmt: skip
        seen = {name: value(name, [*history(99), sample]) for name in SERIES}
        assert seen == {
            "$ActiveTasks": "1", "$RunningTasks": "2", "$PendingTasks": "3", "$SucceededTasks": "4", "$FailedTasks": "5",
            "$ActiveTaskSlots": "6", "$RunningTaskSlots": "7", "$PendingTaskSlots": "13", "$TaskSlotsPerNode": "8",
            "$CurrentDedicatedNodes": "9", "$CurrentLowPriorityNodes": "10", "$PreemptedNodeCount": "11", "$UsableNodeCount": "12",
            "$SampleNodeCount": "13", "$CurrentDedicated": "9", "$CurrentLowPriority": "10",
        }  # fmt: skip

    def test_no_comparison_with_resource_data_holds(self) -> None:
        samples = history(1, 2, 3)
        busy = "min($CPUPercent.GetSample(TimeInterval_Minute))"
        for sign in ("<", "<=", "==", ">=", ">", "!="):
            assert value(f"{busy}{sign}0.5", samples) == value(f"0.5{sign}({busy})", samples) == "0"
        assert value(f"1+({busy}>0.7?1:2)", samples) == "3"
        assert failure(f"x={busy}", samples)[0] == failure(f"{busy}+1>0", samples)[0] == failure(f"{busy}&&1", samples)[0] == EVALUATION
        assert failure("max($CPUPercent.GetSample(TimeInterval_Minute,50))>1", samples)[0] == SCARCE
        assert failure("max($ActiveTasks.GetSample(TimeInterval_Day,TimeInterval_Hour))>1", samples)[0] == EVALUATION, "only those"

    @pytest.mark.parametrize("name", sorted(EMPTY_SERIES))
    def test_resource_series_are_empty(self, name: str) -> None:
        samples = history(1, 2, 3)
        assert value(f"max(1,{name}.GetSample(3))", samples) == "1"
        assert value(f"{name}.GetSamplePercent(TimeInterval_Minute)+{name}.Count()+len({name}.GetSample(TimeInterval_Day))", samples) == "0"
        assert failure(name, samples)[0] == failure(f"{name}.GetSample(TimeInterval_Minute,1)", samples)[0] == SCARCE
