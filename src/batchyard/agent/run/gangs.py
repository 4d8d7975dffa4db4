"""An instance of a multi-instance task: the common files, the coordination command, and what that leaves running (contract 3.10).

It holds the task's directory and user until it is ended; on the primary the task's own command line runs there as its guest.
"""

from __future__ import annotations

import asyncio

from batchyard.agent.places.layout import TaskPlace
from batchyard.agent.places.users import User
from batchyard.agent.process.process import Command, Exit
from batchyard.agent.run.runner import Attempt, Held, Node, Work
from batchyard.model.sync import Order


class Instance(Attempt):
    """One instance; its end is that of the coordination command only when this fails."""

    _stays = True

    def __init__(self, node: Node, order: Order) -> None:
        super().__init__(node, order)
        self._primary = order.gang is not None and order.gang.number == 0

    async def _in_stages(self, work: Work, place: TaskPlace, user: User) -> None:
        held = Held(place, user, asyncio.get_running_loop().time(), self._unwatch)
        self._node.gangs[self._order.attempt] = held
        try:
            await super()._in_stages(work, place, user)
        finally:
            del self._node.gangs[self._order.attempt]
            if held.guest is not None:  # the directory is its as well
                held.guest.kill(leaving=not self._stop.is_set())
                await held.over.wait()

    def _files_below(self, place: TaskPlace) -> str:
        return place.directory

    def _logs(self, place: TaskPlace) -> tuple[str, str]:
        """Of its own on the primary, where those of the task belong to its command line."""
        if not self._primary:
            return super()._logs(place)
        return place.directory + "/coordination-stdout.txt", place.directory + "/coordination-stderr.txt"

    async def _launch(self, command: Command) -> Exit:
        return await self._node.spawners.run(self._key, command, self._noticed, lambda: self._node.ready(self._order.attempt))


def make(node: Node, order: Order) -> Attempt:
    """What makes an attempt."""
    return Instance(node, order) if order.gang is not None and order.gang.within is None else Attempt(node, order)
