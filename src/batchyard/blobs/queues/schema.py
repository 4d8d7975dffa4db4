"""What makes the tables of queues."""

from __future__ import annotations

from batchyard.drivers.migrations import Chain

SCHEMA = Chain("batchyard.blobs.queues")
