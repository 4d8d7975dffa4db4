"""What a queue is: its values, and the limits of the service.

Source: https://learn.microsoft.com/rest/api/storageservices/queue-service-rest-api. Times are microseconds since 1970 (UTC).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from batchyard.blobs.base import AccessPolicy

DAY_S = 86_400
MOST_TEXT_BYTES = 64 * 1024
MOST_MESSAGES = 32
"""Of one get or peek."""
LONGEST_HIDDEN_S = 7 * DAY_S
DEFAULT_TTL_S = 7 * DAY_S
DEFAULT_HIDDEN_S = 30
NEVER_US = 253_402_300_799_000_000
"""What clients read as the end of a message without one: the last second of the year 9999."""


@dataclass(frozen=True, slots=True)
class QueueRef:
    """Address of a queue."""

    account: str
    queue: str


@dataclass(frozen=True, slots=True)
class Queue:
    """Properties of a queue; `count` is how many messages it holds, hidden ones too."""

    name: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    policies: Mapping[str, AccessPolicy] = field(default_factory=dict)
    count: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it is after the operation; whoever got it names it by `receipt`, which the next one to get it replaces."""

    id: str
    text: str
    inserted_us: int
    expires_us: int | None
    visible_us: int
    dequeue_count: int
    receipt: str


@dataclass(frozen=True, slots=True)
class QueuePage:
    """Queues in name order; `next` starts the following page."""

    entries: tuple[Queue, ...]
    next: str | None = None
