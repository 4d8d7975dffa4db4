"""The table that is printed, and what each measurement becomes in it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rounds import Latencies, Rounds, percentile

_HEAD = ("figure", "measured", "yardstick", "ratio", "goal", "", "CPU")


@dataclass(frozen=True)
class Line:
    """One figure; `value` against `goals`, the first to reach now, the others later; `floor` says that more is better."""

    name: str
    measured: str
    yardstick: str = ""
    ratio: float | None = None
    value: float = 0.0
    goals: Sequence[float] = ()
    unit: str = ""
    floor: bool = True
    cpu: str = ""
    kept: bool = False
    """True when the ratio is recorded and must not fall (baseline.py)."""

    def cells(self) -> tuple[str, ...]:
        """What stands in the columns."""
        sign = "≥" if self.floor else "<"
        goal = f"{sign} {', '.join(f'{each:g}' for each in self.goals)}{self.unit}" if self.goals else ""
        met = sum(self.value >= each if self.floor else self.value < each for each in self.goals)
        verdict = "" if not self.goals else "missed" if met == 0 else "met" if met == len(self.goals) else f"met {met} of {len(self.goals)}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return self.name, self.measured, self.yardstick, ratio, goal, verdict, self.cpu


def rate(rates: list[float]) -> str:
    return f"{statistics.median(rates):,.0f}/s ({min(rates):,.0f}-{max(rates):,.0f})"


def of_adding(kind: str, seen: Rounds) -> Line:
    """Tasks added per second."""
    cpu = f"server {statistics.median(seen.server_cpu) * 1e6:.0f} µs/task, yardstick {statistics.median(seen.yard_cpu) * 1e6:.0f}"
    yard = f"insert loop {rate(seen.yard_rates)}"
    return Line(f"tasks added, {kind} ids", rate(seen.rates), yard, seen.ratio, seen.ratio, (0.2, 0.35), cpu=cpu, kept=True)


def of_completing(how: str, seen: Rounds, goals: Sequence[float]) -> Line:
    """No-op tasks completed per second."""
    server, agent, task, bare = (statistics.median(each) * 1e3 for each in (seen.server_cpu, seen.agent_cpu, seen.task_cpu, seen.yard_cpu))
    sums = f"server {server:.2f} + agent {agent:.2f} + task {task:.2f} ms/task"
    cpu = f"{sums}, {(server + agent + task) / bare:.1f} times the yardstick's {bare:.2f}"
    yard = f"spawn loop {rate(seen.yard_rates)}"
    return Line(f"no-op tasks, {how}", rate(seen.rates), yard, seen.ratio, seen.ratio, goals, cpu=cpu, kept=True)


def of_starting(seen: Latencies) -> list[Line]:
    """Add to first instruction."""
    lines = []
    for name, share, goal in (("median", 0.5, 15.0), ("p99", 0.99, 50.0)):
        ours, bare = percentile(seen.ours, share), percentile(seen.bare, share)
        yard = f"bare spawn {bare:.1f} ms"
        lines.append(Line(f"add to first instruction, {name}", f"{ours:.1f} ms", yard, ours / bare, ours, (goal,), " ms", floor=False))
    lines[1] = Line(**{**vars(lines[1]), "cpu": f"of {len(seen.ours)}; worst {max(seen.ours):.1f} ms"})
    return lines


def of_releasing(seen: Latencies) -> Line:
    """A parent's exit to its child's first instruction."""
    ours, bare = percentile(seen.ours, 0.5), percentile(seen.bare, 0.5)
    cpu = f"of {len(seen.ours)}; p99 {percentile(seen.ours, 0.99):.1f} ms"
    name = "parent's exit to child's first instruction, median"
    return Line(name, f"{ours:.1f} ms", f"bare spawn {bare:.1f} ms", ours / bare, ours, (20.0, 8.0), " ms", floor=False, cpu=cpu)


def of_graph(seen: Mapping[str, float]) -> list[Line]:
    """A graph on simulated nodes: CPU of the server's side, and how its memory grew."""
    tasks, cpu = seen["tasks"], seen["add_cpu"] + seen["run_cpu"]
    name = f"graph of {tasks:,.0f} tasks, {seen['edges']:,.0f} edges"
    parts = f"add {seen['add_cpu'] / tasks * 1e6:.0f}, run {seen['run_cpu'] / tasks * 1e6:.0f} µs/task"
    grown = seen["after_mb"] - seen["early_mb"]
    memory = (
        f"before {seen['before_mb']:.0f}, added {seen['added_mb']:.0f}, a tenth done {seen['early_mb']:.0f}, all {seen['after_mb']:.0f} MB"
    )
    return [
        Line(f"{name}, CPU", f"{cpu:.1f} s", value=cpu, goals=(60.0,), unit=" s", floor=False, cpu=parts),
        Line(
            "its memory (RSS) from a tenth to the end", f"{grown:+.0f} MB", value=grown, goals=(32.0,), unit=" MB", floor=False, cpu=memory
        ),
    ]


def of_nodes(seen: Mapping[str, float]) -> list[Line]:
    """Many nodes whose agents are coroutines: CPU of the server against an HTTP server that answers every sync with the same bytes."""
    bare = seen["bare_cpu"]
    yard = f"bare answer {bare * 1e6:.0f} µs"

    def per_unit(name: str, part: str, units: float, goals: Sequence[float] = ()) -> Line:
        each = seen[f"{part}_cpu"] / units
        rate = f"{units:,.0f} in {seen[f'{part}_s']:.1f} s"
        return Line(name, f"{each * 1e6:.0f} µs", yard, each / bare, each / bare, goals, " times", floor=False, cpu=rate)

    n, tasks = seen["nodes"], seen["slots"] * 1.25
    idle = seen["idle_cpu"] / seen["idle_s"] * 100
    late, patience = seen["requeue_s"] - seen["silence_s"], f"silence {seen['silence_s']:g} s"
    rest = f"then the job completed in {seen['recover_s']:.1f} s; server {seen['requeue_cpu'] + seen['recover_cpu']:.1f} s of CPU"
    return [
        per_unit(f"a node of {n:,.0f} joins, CPU", "join", n),
        per_unit("a sync that says nothing new, CPU", "sync", seen["sync_syncs"], (6.0, 4.0)),
        Line(
            f"idle server with {n:,.0f} nodes",
            f"{idle:.2f} % of a core",
            value=idle,
            goals=(5.0, 2.0),
            unit=" %",
            floor=False,
            cpu=f"{seen['idle_syncs'] / seen['idle_s']:.0f} syncs/s",
        ),
        per_unit(f"a task of {tasks:,.0f} is placed on {seen['slots']:,.0f} slots, CPU", "place", tasks, (40.0, 20.0)),
        Line(
            f"{tasks:,.0f} tasks placed on {n:,.0f} nodes",
            f"{seen['place_s']:.2f} s",
            value=seen["place_s"],
            goals=(5.0, 2.0),
            unit=" s",
            floor=False,
            cpu=f"the last fifth, as others end, {seen['refill_s']:.2f} s",
        ),
        Line(
            f"{seen['lost']:,.0f} nodes fall silent: their tasks wait again",
            f"{seen['requeue_s']:.1f} s",
            patience,
            seen["requeue_s"] / seen["silence_s"],
            late,
            (6.0,),
            " s more",
            floor=False,
            cpu=rest,
        ),
    ]


def text(lines: Sequence[Line]) -> str:
    """The table."""
    rows = [_HEAD, *(line.cells() for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    drawn = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([drawn[0], "-" * len(drawn[0]) + "-" * (sum(widths) + 12 - len(drawn[0])), *drawn[1:]])
