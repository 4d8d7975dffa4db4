"""The agent: start-up, the conversation with the server, and the attempts that it leads to.

One long poll waits for orders. As soon as something is to be reported, a sync without waiting goes out on a second
connection; the server lets the older poll go with 204. While such a report is under way, further ends wait for its
answer, and `Pace` may give them a moment, so that a busy node sends many ends at a time. Errors of the connection end
no attempt; a lost session does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from batchyard.agent.accounts import claims
from batchyard.agent.accounts.logins import Logins, LoginService
from batchyard.agent.containers.containers import Containers
from batchyard.agent.health import facts
from batchyard.agent.health.chaos import Disturbances, Making
from batchyard.agent.health.health import FULL, NEARLY, Health
from batchyard.agent.places import beneath, hold
from batchyard.agent.places.identity import Address, servers
from batchyard.agent.places.layout import Layout
from batchyard.agent.places.removals import Directories, Remover
from batchyard.agent.places.users import Users, of_logins
from batchyard.agent.process.process import Spawners
from batchyard.agent.run import gangs, remains
from batchyard.agent.run.doors import Doors
from batchyard.agent.run.inside import Insiders
from batchyard.agent.run.packages import Packages
from batchyard.agent.run.runner import Node, next_key
from batchyard.agent.settings import AgentSettings, parse
from batchyard.agent.state import State
from batchyard.agent.talk import farewell, trust
from batchyard.agent.talk.link import Broken, Link
from batchyard.agent.talk.pace import Pace, Pause
from batchyard.agent.talk.replies import Replies
from batchyard.agent.transfer.inputs import Inputs
from batchyard.agent.transfer.logs import ServiceLogs
from batchyard.disk import logs
from batchyard.model.sync import SYNC_PATH, NodeNews, NodeProblem, NodeSetup, Orders, Removal, Sync, gone

if TYPE_CHECKING:
    import httpx

log = structlog.get_logger()

_THREADS, _TRANSFER = 16, "transfer"
_PROBES = 4
"""Probes of the operator that run at once."""
_BREATH_S = 0.2
"""Pause after a poll that came back at once and brought nothing, so that it cannot spin."""
_ANSWER_S = 30.0
"""How long a sync may take beyond what the server was asked to wait."""
_REASON = 200
"""Bytes of a refusal that are logged."""
_LOOK_S = 20.0
"""How long the first look at the node is waited for: a disk that hangs must not keep the agent from saying so."""
_LONGEST_REMOVAL_PAUSE_S = 60.0
_LEAVE_S = 15.0
"""How long the end of all attempts is waited for before the agent joins again or exits."""
_FAREWELL_S = 3.0
"""How long it is waited for before the server is told that the agent stops, which whoever stops it has the patience for."""
_GOODBYE_S = 1.5
"""How long the server has for taking that in."""
_UMASK = 0o022
"""Whoever starts the agent may have a narrower one, and what it makes is to be as it says."""


_ORDERS = msgspec.json.Decoder(Orders)


class NodeGone(Exception):
    """The server does not know this node (any more)."""


class WrongToken(OSError):
    """The server knows no node of this token: it was never this agent's."""


class Fenced(Exception):
    """The session is over."""


class Agent:
    """The conversation over `link`; `token` is for the answers to file requests, `unwatched` what `remains` tells of earlier agents."""

    def __init__(
        self,
        settings: AgentSettings,
        layout: Layout,
        found: facts.Found,
        link: Link,
        token: str,
        trusted: Mapping[str, str],
        *,
        unwatched: bool = False,
    ) -> None:
        self._settings, self._layout, self._found, self._link, self._trusted = settings, layout, found, link, trusted
        self._token, self._address = token, Address(settings.server, settings.server_file)
        self._threads = ThreadPoolExecutor(_THREADS, _TRANSFER)
        self._users = Users(found.uid_base, found.facts.switches_users)
        self._ends, self._unwatched = remains.Ends(layout, token), unwatched
        self._state = State(ended=self._ends.earlier())
        self._attempts: dict[str, Making] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._chores: set[asyncio.Task[None]] = set()
        self._polls: dict[asyncio.Task[bool], None] = {}
        self._news = asyncio.Event()
        self._pace = Pace(self._state.running, found.facts.cores)
        self._node: Node | None = None
        self._join: asyncio.Task[bool] | None = None
        self.leaving = False
        """True once nothing is left to do but to leave, which is not to be cancelled."""
        self._accountants = ThreadPoolExecutor(1, _TRANSFER)
        self._directories = Directories()
        self._remover = Remover(layout, self._directories, self._threads)
        logins = Logins(layout, found.facts.switches_users, of_logins(found.uid_base))
        self._logins = LoginService(logins, self._accountants, self._remover.empty)
        self._logs = ServiceLogs(settings.log_file, layout, self._threads, self._note_news)
        self._probers = ThreadPoolExecutor(_PROBES, _TRANSFER)
        self._chaos = Disturbances(settings.chaos)
        self._doors = Doors(layout.tag, link)
        self._packages = Packages(layout, self._threads, self._chaos.changed)
        self._inputs = Inputs(layout)
        self._containers = Containers(layout, self._threads, self._chaos.changed, self._note_news, next_key)
        self._health = Health(layout.root, settings.probes, self._probers, self._more_problems, self._chaos.changed)
        services = {**self._logins.services, "upload_logs": self._logs.answer, "chaos": self._chaos.answer}
        streams = {"exec": Insiders(layout.volatile + "/inside", lambda: self._node)}
        connect = lambda: _client(settings, self._address.url, token)  # noqa: E731
        self._replies = Replies(link, connect, layout.root, self._threads, services, streams, self._chaos.answered)

    async def run(self) -> None:
        """Converse until the node is gone; ends all attempts on the way out, however it leaves, and says goodbye. Raises WrongToken."""
        upkeep = asyncio.create_task(self._logins.upkeep())
        watch = asyncio.create_task(self._health.watch(self._settings.health_s, self._note_problems))
        last = self._logins.close
        try:
            with contextlib.suppress(TimeoutError):  # so that the first word tells of all that is wrong
                async with asyncio.timeout(_LOOK_S):
                    await self._health.looked.wait()
            pause = Pause()
            while True:
                try:
                    await self._turn()
                    pause.over()
                    self._address.answered()
                except Fenced:
                    log.warning("fenced off: ending everything and joining again", session=self._state.session)
                    await self._start_over()
                except WrongToken:
                    raise
                except (msgspec.DecodeError, OSError) as error:
                    log.warning("sync failed", reason=str(error) or type(error).__name__)
                    if not self._follow():
                        await pause.next()
        except NodeGone:
            last = self._logins.leave
            self._state.forget()
            self._containers.leave()
            raise
        finally:
            self.leaving = True
            upkeep.cancel()
            self._logs.stop()
            await self._say_goodbye()
            await self._end_all()
            await last()
            await self._replies.close()
            await self._packages.close()
            await self._containers.close()
            self._remover.stop.set()
            if self._node is not None:
                await self._node.spawners.close()
            watch.cancel()
            for threads in (self._threads, self._probers, self._accountants):
                threads.shutdown(wait=False, cancel_futures=True)

    async def _turn(self) -> None:
        """One exchange: join, report, or wait for news. Raises NodeGone, Fenced, DecodeError or OSError."""
        if self._state.session == 0:
            joining = self._state.say(facts=self._found.facts, root=self._found.root, clock=_clock(), unwatched=self._unwatched)
            self._join = asyncio.create_task(self._exchange(joining))
            await asyncio.shield(self._join)  # the server may have begun the session before an agent that stops hears of it
            self._unwatched = False
            return
        await self._pace.wait()
        if not self._state.has_news():
            await self._wait()
        if self._state.has_news():
            await asyncio.sleep(0)  # take along what ends in the same turn of the loop
            self._news.clear()
            if self._state.ended:
                self._pace.report(len(self._state.ended))
            await self._exchange(self._state.say(clock=_clock()))

    async def _wait(self) -> None:
        """Poll until there is an answer or something to report."""
        while len(self._polls) > 2:  # a server that does not let go of older polls
            await self._drop(next(iter(self._polls)))
        self._news.clear()
        begun = time.monotonic()
        poll = asyncio.create_task(self._exchange(self._state.say(clock=_clock(), wait_s=self._settings.wait_s)))
        self._polls[poll] = None
        news = asyncio.create_task(self._news.wait())
        try:
            await asyncio.wait((poll, news), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._drop(poll)
            raise
        finally:
            news.cancel()
        if poll.done():
            del self._polls[poll]
            if not poll.result() and time.monotonic() - begun < _BREATH_S:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), _BREATH_S)
        else:
            poll.add_done_callback(self._forget_poll)

    def _forget_poll(self, poll: asyncio.Task[bool]) -> None:
        self._polls.pop(poll, None)
        if not poll.cancelled():
            poll.exception()  # whatever it was, the next sync meets it again

    async def _drop(self, poll: asyncio.Task[bool], patience_s: float = 0.0) -> None:
        if patience_s:
            await asyncio.wait({poll}, timeout=patience_s)
        poll.cancel()
        with contextlib.suppress(asyncio.CancelledError, NodeGone, Fenced, msgspec.DecodeError, OSError):
            await poll
        self._polls.pop(poll, None)

    async def _exchange(self, said: Sync) -> bool:
        """Send a sync and do what the answer says; False when it says nothing new."""
        answer = await self._link.post(SYNC_PATH, msgspec.json.encode(said), said.wait_s + _ANSWER_S)
        if answer.status in (401, 403):
            if answer.body == gone(self._token):
                raise NodeGone("the server has no such node any more")
            if self._node is not None or self._settings.server_file is not None:
                raise Broken(f"another server answers there, with {answer.status}")  # ours may come back
            told = f"the server at {self._address.url} knows no node with the token of {self._settings.token_file}"
            raise WrongToken(
                f"{told}, it answered {answer.status}: its keys were made anew, or it is another server; join again with a new join token"
            )
        if answer.status == 204:
            return False
        if answer.status != 200:
            raise Broken(f"the server answered {answer.status} {answer.body[:_REASON].decode(errors='replace')}".strip())
        return await self._apply(said, _ORDERS.decode(answer.body))

    def _follow(self) -> bool:
        """Turn to where the server is now, or to another one; False when it is to be waited for first."""
        before = self._address.url
        at_once = self._address.move_on()
        if self._address.url == before:
            return False
        try:
            self._link.turn_to(self._address.url)
        except OSError as error:
            log.warning("the server's new address is none", reason=str(error))
            return False
        log.info("turned to another server", url=self._address.url)
        self._replies.turn_to(self._address.url)
        if self._node is not None:
            self._node.learn_url(self._address.url)
        return at_once

    async def _apply(self, said: Sync, answer: Orders) -> bool:
        if said.session == 0 and answer.setup is not None and not answer.fenced:
            self._set_up(answer.setup)
        elif said.session == 0:
            raise msgspec.DecodeError("the answer to a join carries no setup")
        plan = self._state.hear(said, answer)
        if answer.ends:
            self._follow()
        if plan.fenced:
            raise Fenced
        self._ends.forget(end.attempt for end in said.ended if end.attempt not in self._state.ended)
        for kill in plan.kills:
            self._attempts[kill.attempt].kill()
        if plan.notice_s is not None:
            log.warning("the machine will be taken away", seconds=plan.notice_s, attempts=len(self._attempts))
            for attempt in self._attempts.values():
                attempt.terminate()
        for start in plan.starts:
            assert self._node is not None
            name = start.order.attempt
            attempt = self._attempts[name] = self._chaos.disturb(name, gangs.make(self._node, start.order))
            if self._state.noticed:
                attempt.terminate()
            self._begin(self._make(name, attempt), self._tasks)
        for request in plan.files:
            self._replies.begin(request)
        for removal in plan.removals:
            self._begin(self._remove(removal), self._chores)
        return bool(plan)

    def _begin(self, work: Coroutine[None, None, None], among: set[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(work)
        among.add(task)
        task.add_done_callback(among.discard)

    async def _remove(self, removal: Removal) -> None:
        """Remove a directory, however often that fails; the server keeps it in mind until it hears that it is gone."""
        pause = Pause(_LONGEST_REMOVAL_PAUSE_S)
        while True:
            try:
                await self._remover.free(removal.directory)
                break
            except beneath.Outside as error:
                log.error("no directory of the node", directory=removal.directory, reason=str(error))
                break
            except OSError as error:
                log.warning("directory not removed yet", directory=removal.directory, reason=str(error))
                await pause.next()
        self._packages.removed(removal.directory)
        self._state.note_removal(removal.number)
        self._news.set()
        await self._remover.empty()

    def _more_problems(self) -> list[NodeProblem]:
        return [*self._chaos.problems(), *self._packages.problems(), *self._containers.problems()]

    def _note_problems(self, problems: list[NodeProblem]) -> None:
        self._state.problems = problems
        self._packages.told(problems)
        self._containers.told(problems)
        self._news.set()
        if self._inputs.is_on and any(problem.code in (NEARLY, FULL) for problem in problems):
            self._threads.submit(self._inputs.relieve)

    def _note_news(self, news: NodeNews) -> None:
        self._state.note_news(news)
        self._news.set()

    def _note_ready(self, attempt: str) -> None:
        self._state.note_ready(attempt)
        self._news.set()

    def _set_up(self, setup: NodeSetup) -> None:
        log.info("joined", pool=setup.pool_id, node=setup.node_id, slots=setup.slots)
        self._found.limits.learn(setup, self._found.facts.cores)
        if self._node is None:
            many = self._found.facts.cores > 1 and setup.slots > 4
            count = self._settings.spawners or (2 if many else 1)
            spawners = Spawners(self._found.place, count, self._found.limits, remains.watches(self._layout))
        else:
            spawners = self._node.spawners
        shared = self._directories, self._packages, self._inputs, self._containers, self._trusted
        node = Node(self._layout, self._users, spawners, self._threads, setup, *shared)
        node.ready, node.doors = self._note_ready, self._doors
        self._node = node
        self._packages.learn(setup)
        self._inputs.learn(setup.input_cache_bytes)
        self._containers.learn(setup.containers, spawners)
        self._begin(self._remover.empty(), self._chores)

    async def _make(self, name: str, attempt: Making) -> None:
        ended = await attempt.run()
        if self._attempts.get(name) is attempt:
            del self._attempts[name]
            if self._state.note_end(ended):
                self._ends.note(ended)
                self._news.set()
                self._pace.ended()

    async def _say_goodbye(self) -> None:
        """End all attempts and say so, for them to be made elsewhere at once; nothing to say without a session."""
        if self._join is not None:
            await self._drop(self._join, _GOODBYE_S)
        for poll in list(self._polls):
            await self._drop(poll)
        for attempt in self._attempts.values():
            attempt.kill(leaving=True)
        if self._state.session == 0:
            return
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_FAREWELL_S)
        await farewell.bid(self._link, lambda: self._state.say(clock=_clock(), leaving=True), self._token, _GOODBYE_S, self._follow)

    async def _start_over(self) -> None:
        self._state.forget()
        self._ends.forget_all()
        await self._end_all()

    async def _end_all(self) -> None:
        for poll in list(self._polls):
            await self._drop(poll)
        for attempt in self._attempts.values():
            attempt.kill()
        self._attempts.clear()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LEAVE_S)


def _clock() -> int:
    """The node's time in microseconds since 1970."""
    return time.time_ns() // 1000


async def run(settings: AgentSettings) -> None:
    """Be a node until the server says that it is gone, or until SIGTERM. Raises OSError when the node cannot start, WrongToken."""
    layout = Layout(os.fspath(settings.root), settings.seen_at)
    layout.make()
    with open(settings.token_file, encoding="ascii") as file:
        token = file.read().strip()
    with hold.only_one(layout.root, layout.volatile), claims.held(layout.root, settings.uid_base) as claim:
        trusted = trust.everywhere(settings.ca_file, layout.root) if settings.ca_file is not None else {}
        unwatched = remains.ran_unwatched(layout)
        known = servers(settings.server) or [settings.server]
        found = facts.find(layout, known[0], claim, settings.control)
        encrypted = next((url for url in known if url.startswith("https:")), known[0])
        async with Link(known[0], token, trust.of_server(encrypted, settings.ca_file)) as link:
            await _until_stopped(Agent(settings, layout, found, link, token, trusted, unwatched=unwatched))


def _client(settings: AgentSettings, server: str, token: str) -> httpx.AsyncClient:
    """Client for the answers to file requests; imported when the first one comes, because it is large."""
    import httpx

    return httpx.AsyncClient(
        base_url=server.rstrip("/"),
        headers={"authorization": f"Bearer {token}"},
        trust_env=False,
        verify=trust.of_server(server, settings.ca_file) or False,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=10),
    )


async def _until_stopped(agent: Agent) -> None:
    """Run until the node is gone, or SIGTERM or SIGINT comes; all attempts have been ended then."""
    loop = asyncio.get_running_loop()
    work = asyncio.create_task(agent.run())

    def stop() -> None:
        """Whoever asks again does not cut short what is done on the way out."""
        if not agent.leaving and not work.cancelling():
            work.cancel()

    with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread: whoever embeds the agent cancels it
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
    try:
        await work
    except NodeGone as gone:
        log.info("the node is gone", reason=str(gone))
    except asyncio.CancelledError:
        if not work.done():  # cancelled from outside
            work.cancel()
            await asyncio.wait({work})
            raise
        log.info("agent stopped")


def _quickest() -> Callable[[Coroutine[Any, Any, None]], object]:
    """What runs an agent: uvloop, or asyncio where that is not installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


def main(argv: Sequence[str] | None = None, prog: str = "batchyard agent") -> int:
    """Run an agent from the command line; the exit code is 1 when it cannot start, or shows a token that the server does not know."""
    settings = parse(argv, prog)
    logs.begin()
    os.umask(_UMASK)
    try:
        _quickest()(run(settings))
    except OSError as error:
        log.error(f"the agent cannot run: {error}")
        return 1
    if any(thread.name.startswith(_TRANSFER) for thread in threading.enumerate()):
        sys.stderr.flush()
        os._exit(0)  # Python would wait for the transfers that were given up
    return 0


if __name__ == "__main__":
    sys.exit(main())
