"""`$select`: of every item only the members that a client names (contract 5.1).

They are chosen from the encoded item, so views know nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec

from batchyard.api.wire.call import Call
from batchyard.model.errors import invalid_query
from batchyard.model.job import JobCreateContent, JobPreparationAndReleaseTaskExecutionInformation, JobServed
from batchyard.model.jobschedule import JobScheduleContent, JobScheduleServed
from batchyard.model.node import Node, NodeVMExtension
from batchyard.model.pool import PoolCreateContent, PoolResize, PoolServed
from batchyard.model.task import Subtask, TaskCreateContent, TaskServed

_encode = msgspec.json.Encoder().encode


def _names(*shapes: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(field.encode_name for shape in shapes for field in msgspec.structs.fields(shape))


POOL = _names(PoolCreateContent, PoolResize, PoolServed)
NODE = _names(Node)
EXTENSION = _names(NodeVMExtension)
JOB = _names(JobCreateContent, JobServed)
SCHEDULE = _names(JobScheduleContent, JobScheduleServed)
TASK = _names(TaskCreateContent, TaskServed)
SPECIAL_TASKS = _names(JobPreparationAndReleaseTaskExecutionInformation)
SUBTASK = _names(Subtask)
LONGEST = 4_096
"""Characters of a selection."""


class Selection:
    """What `$select` leaves of items; everything when it is absent or blank."""

    def __init__(self, decoder: msgspec.json.Decoder[Any] | None) -> None:
        self._decoder = decoder

    def one(self, item: bytes) -> bytes:
        """The chosen members of an encoded item, of those that it has."""
        return item if self._decoder is None else _encode(self._decoder.decode(item))

    def all(self, items: Iterable[bytes]) -> list[bytes]:
        """The same for every item of a page."""
        if self._decoder is None:
            return list(items)
        decode = self._decoder.decode
        return [_encode(decode(item)) for item in items]


def of(call: Call, known: frozenset[str]) -> Selection:
    """What a call selects of items with these members. Raises InvalidQueryParameterValue for a name that they do not have."""
    text = call.query.get("$select", "")
    if not text.strip():
        return Selection(None)
    if len(text) > LONGEST:
        raise invalid_query("$select", text[:100], f"The selection has more than {LONGEST} characters")
    names = frozenset(name.strip() for name in text.split(","))
    for name in sorted(names - known):
        raise invalid_query("$select", text[:100], f"{name[:100]!r} is not a property of what is selected from; names are case-sensitive")
    return Selection(_decoder(names))


@lru_cache(maxsize=64)
def _decoder(names: frozenset[str]) -> msgspec.json.Decoder[Any]:
    """Reads the chosen members as they are, and nothing of the others."""
    fields: list[tuple[str, Any, Any]] = [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for name in sorted(names)]
    return msgspec.json.Decoder(msgspec.defstruct("Selected", fields, gc=False))
