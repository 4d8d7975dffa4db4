"""What the agent holds, and what an answer changes about it. Pure: no processes, files, clock or network.

Invariants: `number` grows with every sync of a session; an answer older than the newest applied one changes nothing;
an attempt is held from its order until its end was acknowledged, and starts at most once while it is held.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from batchyard.model.sync import Ended, FileRequest, NodeFacts, NodeNews, NodeProblem, Order, Orders, Removal, Sync

MOST_NEWS = 100
"""More of what happened is not kept for the server to hear."""


@dataclass(slots=True, frozen=True)
class Start:
    """Make an attempt."""

    order: Order


@dataclass(slots=True, frozen=True)
class Kill:
    """End an attempt; its report follows."""

    attempt: str


@dataclass(slots=True)
class Plan:
    """What to do after an answer."""

    starts: list[Start] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    files: Sequence[FileRequest] = ()
    removals: list[Removal] = field(default_factory=list)
    notice_s: float | None = None
    """The machine goes in so many seconds: let everything that runs know. Present in the first plan after each such word."""
    fenced: bool = False
    """End everything and join again; nothing else is to be done."""

    def __bool__(self) -> bool:
        return bool(self.starts or self.kills or self.files or self.removals or self.fenced or self.notice_s is not None)


def plan(orders: Sequence[Order], wanted: Collection[str], running: Collection[str], held: Collection[str]) -> Plan:
    """Starts and kills that turn `running` into `wanted`; an attempt that ended and is still held is not started again."""
    wanted, held = set(wanted), set(held)
    starts = {order.attempt: Start(order) for order in orders if order.attempt in wanted and order.attempt not in held}
    return Plan(list(starts.values()), [Kill(attempt) for attempt in sorted(set(running) - wanted)])


@dataclass(slots=True)
class State:
    """One agent's books. All methods are called from one thread."""

    session: int = 0
    number: int = 0
    applied: int = 0
    running: dict[str, bool] = field(default_factory=dict)
    """Attempts that have not ended yet; True once they are being killed."""
    ended: dict[str, Ended] = field(default_factory=dict)
    """Ends that were not acknowledged yet."""
    ready: set[str] = field(default_factory=set)
    """Instances of multi-instance tasks that became ready, which was not acknowledged yet."""
    removing: set[int] = field(default_factory=set)
    removed: set[int] = field(default_factory=set)
    """Removals that are done and not yet acknowledged."""
    problems: list[NodeProblem] = field(default_factory=list)
    """All that is wrong now; exchanged as a whole."""
    told: list[NodeProblem] | None = None
    """The list of problems that the server acknowledged in this session."""
    news: list[NodeNews] = field(default_factory=list)
    """What happened and was not acknowledged yet; outlasts a session."""
    noticed: bool = False
    """True while the server says that the machine goes."""

    def say(
        self,
        *,
        facts: NodeFacts | None = None,
        root: str | None = None,
        clock: int | None = None,
        wait_s: float = 0,
        leaving: bool = False,
        unwatched: bool = False,
    ) -> Sync:
        """The next sync: the full picture. `clock` is the node's time in microseconds since 1970."""
        self.number += 1
        has = [*self.running, *self.ended]
        ended, removed, ready = list(self.ended.values()), sorted(self.removed), sorted(self.ready)
        problems = None if self.told is self.problems else self.problems
        return Sync(
            session=self.session,
            number=self.number,
            has=has,
            ended=ended,
            ready=ready,
            removed=removed,
            facts=facts,
            root=root,
            clock=clock,
            problems=problems,
            news=list(self.news),
            wait_s=wait_s,
            leaving=leaving,
            unwatched=unwatched,
        )

    def has_news(self) -> bool:
        """True when there is something to report."""
        return bool(self.ended or self.ready or self.removed or self.news) or self.told is not self.problems

    def hear(self, said: Sync, answer: Orders) -> Plan:
        """Apply the answer to a sync. One to an earlier session, or older than the newest applied, changes nothing."""
        if said.session != self.session or said.number <= self.applied:
            return Plan()
        if answer.fenced:
            return Plan(fenced=True)
        self.session, self.applied = answer.session, said.number
        for end in said.ended:
            if self.ended.get(end.attempt) is end:
                del self.ended[end.attempt]
        self.ready.difference_update(said.ready)
        self.removed.difference_update(said.removed)
        self.news = [each for each in self.news if all(each is not one for one in said.news)]
        if said.problems is not None:
            self.told = said.problems
        killing = [attempt for attempt, killed in self.running.items() if killed]
        held = self.running.keys() | self.ended.keys() | {end.attempt for end in said.ended}
        made = plan(answer.orders, answer.wanted, self.running.keys() - set(killing), held)
        made.files = answer.files
        made.notice_s = None if self.noticed else answer.notice_s
        self.noticed = answer.notice_s is not None
        made.removals = [each for each in answer.removals if each.number not in self.removing | self.removed]
        self.removing.update(each.number for each in made.removals)
        for start in made.starts:
            self.running[start.order.attempt] = False
        for kill in made.kills:
            self.running[kill.attempt] = True
        return made

    def note_end(self, end: Ended) -> bool:
        """Note how an attempt ended; False when it is not held (any more)."""
        if self.running.pop(end.attempt, None) is None:
            return False
        self.ready.discard(end.attempt)
        self.ended[end.attempt] = end
        return True

    def note_ready(self, attempt: str) -> None:
        """Note that the coordination command of an instance has succeeded."""
        if attempt in self.running:
            self.ready.add(attempt)

    def note_removal(self, number: int) -> None:
        """Note that a directory is gone."""
        if number in self.removing:
            self.removing.discard(number)
            self.removed.add(number)

    def note_news(self, news: NodeNews) -> None:
        """Note what happened, for the server to hear; of very much the newest."""
        self.news = [*self.news[1 - MOST_NEWS :], news]

    def forget(self) -> None:
        """Start over, to join again."""
        self.session = self.number = self.applied = 0
        self.told, self.noticed = None, False
        self.running.clear()
        self.ended.clear()
        self.ready.clear()
        self.removing.clear()
        self.removed.clear()
