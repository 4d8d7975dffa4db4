"""The agent's books: what an answer changes, whatever the order in which answers come."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from batchyard.agent.state import MOST_NEWS, State, plan
from batchyard.model.sync import Ended, NodeNews, Order, Orders, Removal, Sync

names = st.sets(st.sampled_from("abcdefgh"))


def order(name: str) -> Order:
    return Order(attempt=name, job_id="job", task=msgspec.Raw(b"{}"))


def answer(said: Sync, wanted: set[str], **members: object) -> Orders:
    orders = [order(name) for name in sorted(wanted - set(said.has))]
    return Orders(session=said.session or 1, number=said.number, wanted=sorted(wanted), orders=orders, **members)  # type: ignore[arg-type]


def joined() -> State:
    state = State()
    said = state.say()
    state.hear(said, answer(said, set()))
    return state


@given(wanted=names, running=names)
def test_applying_a_plan_gives_what_is_wanted_and_a_second_plan_is_empty(wanted: set[str], running: set[str]) -> None:
    orders = [order(name) for name in wanted]
    made = plan(orders, wanted, running, running)
    after = (running - {kill.attempt for kill in made.kills}) | {start.order.attempt for start in made.starts}
    assert after == wanted
    assert not plan(orders, wanted, after, after)


@given(steps=st.lists(st.tuples(names, names), max_size=8))
def test_books_follow_the_server_and_hold_each_attempt_once(steps: list[tuple[set[str], set[str]]]) -> None:
    state = joined()
    over: set[str] = set()  # an attempt that is not wanted any more never comes back
    for asked, ending in steps:
        wanted = asked - over
        said = state.say()
        over |= set(said.has) - wanted
        made = state.hear(said, answer(said, wanted))
        assert {name for name, killed in state.running.items() if not killed} == wanted - {end.attempt for end in said.ended}
        assert not {start.order.attempt for start in made.starts} & set(said.has)
        again = state.say()
        assert not state.hear(again, answer(again, wanted)).kills
        for name in ending:
            over |= {name} if state.note_end(Ended(attempt=name, ended=1, exit_code=0)) else set()
        assert len(state.say().has) == len(set(state.say().has))


@given(st.permutations(range(4)))
def test_only_the_newest_answer_counts(arrival: list[int]) -> None:
    state = joined()
    said = [state.say() for _ in range(4)]
    answers = [answer(each, {f"attempt{at}"}) for at, each in enumerate(said)]
    newest = -1
    for at in arrival:
        made = state.hear(said[at], answers[at])
        assert bool(made) == (at > newest)
        newest = max(newest, at)
    assert [name for name, killed in state.running.items() if not killed] == ["attempt3"]


def test_an_end_is_told_until_it_was_acknowledged_and_then_never_again() -> None:
    state = joined()
    said = state.say()
    state.hear(said, answer(said, {"a"}))
    before = state.say(wait_s=20)
    assert state.note_end(Ended(attempt="a", ended=1, exit_code=0))
    first, second = state.say(), state.say()
    assert [end.attempt for end in first.ended] == [end.attempt for end in second.ended] == ["a"]
    assert second.has == ["a"]
    state.hear(before, answer(before, {"a"}))
    assert state.say().ended  # the poll went out before the end and acknowledges nothing
    state.hear(first, answer(first, set()))
    assert not state.say().ended
    assert not state.say().has


def test_an_answer_that_still_wants_what_has_just_been_acknowledged_does_not_start_it_again() -> None:
    state = joined()
    said = state.say()
    state.hear(said, answer(said, {"a"}))
    state.note_end(Ended(attempt="a", ended=1, exit_code=0))
    report = state.say()
    late = Orders(session=1, number=report.number, wanted=["a"], orders=[order("a")])
    assert not state.hear(report, late).starts


def test_what_is_being_killed_is_killed_once_and_held_until_its_end_was_told() -> None:
    state = joined()
    said = state.say()
    state.hear(said, answer(said, {"a"}))
    for expected in (["a"], []):
        said = state.say()
        assert said.has == ["a"]
        assert [kill.attempt for kill in state.hear(said, answer(said, set())).kills] == expected
    assert state.note_end(Ended(attempt="a", ended=1, exit_code=137))


def test_fenced_says_so_and_answers_of_the_old_session_change_nothing_afterwards() -> None:
    state = joined()
    poll, report = state.say(), state.say()
    assert state.hear(report, Orders(session=1, number=report.number, fenced=True)).fenced
    state.forget()
    again = state.say()
    assert again.session == 0
    state.hear(again, Orders(session=2, number=again.number))
    assert not state.hear(poll, answer(poll, {"a"}))
    assert state.session == 2
    assert not state.note_end(Ended(attempt="a", ended=1))


def test_a_removal_is_begun_once_and_told_until_it_was_acknowledged() -> None:
    state = joined()
    removal = Removal(number=7, directory="workitems/job/job-1")
    for expected in ([removal], []):
        said = state.say()
        assert state.hear(said, answer(said, set(), removals=[removal])).removals == expected
    state.note_removal(7)
    said = state.say()
    assert said.removed == [7]
    assert not state.hear(said, answer(said, set())).removals
    assert not state.say().removed


def test_news_are_told_until_they_were_acknowledged_whatever_becomes_of_the_session() -> None:
    state = joined()
    first, second = NodeNews(happened="x", cause="1"), NodeNews(happened="x", cause="1")
    state.note_news(first)
    assert state.has_news()
    lost, said = state.say(), state.say()
    state.note_news(second)
    assert lost.news == said.news == [first]
    state.hear(said, Orders(session=1, number=said.number, fenced=True))
    state.forget()
    joining = state.say()
    assert joining.news == [first, second]
    state.hear(joining, answer(joining, set()))
    assert state.say().news == []
    for number in range(2 * MOST_NEWS):
        state.note_news(NodeNews(happened="x", cause=str(number)))
    assert [news.cause for news in state.say().news] == [str(number) for number in range(MOST_NEWS, 2 * MOST_NEWS)]
