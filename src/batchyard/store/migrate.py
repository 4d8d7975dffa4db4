"""What makes the tables of the store; the files are numbered, and applied by the drivers."""

from __future__ import annotations

from batchyard.drivers.migrations import Chain, NewerSchema

__all__ = ["REGISTRY", "WORLD", "NewerSchema"]

WORLD, REGISTRY = Chain("batchyard.store"), Chain("batchyard.store", "registry")
"""What a database holds: the world of one account, or which accounts there are."""
