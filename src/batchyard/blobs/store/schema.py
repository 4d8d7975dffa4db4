"""What makes the tables of the catalogue of blobs."""

from __future__ import annotations

from batchyard.drivers.migrations import Chain

SCHEMA = Chain("batchyard.blobs.store")
