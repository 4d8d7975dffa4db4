"""What makes the tables of the catalogue of blobs."""

from __future__ import annotations

from batchyard.drivers.migrations import Chain

CURRENT = "~"
"""`snapshot` of a blob that is none; it comes behind all times, so a blob follows its snapshots."""
SCHEMA = Chain("batchyard.blobs.store")
