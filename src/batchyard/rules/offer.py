"""What the account offers its clients: sizes, images, quotas (contract 7.2). The operator's configuration fills it in."""

from __future__ import annotations

import msgspec

from batchyard.model.account import SupportedImage
from batchyard.rules import images
from batchyard.rules.sizes import Sizes


class Quotas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much there may be at once; None for no limit."""

    dedicated_cores: int | None = None
    low_priority_cores: int | None = None
    pools: int | None = None
    active_jobs: int | None = None


class Offer(msgspec.Struct, frozen=True):
    """Sizes, images and quotas of the account."""

    sizes: Sizes = Sizes()
    images: tuple[SupportedImage, ...] = tuple(images.known())
    quotas: Quotas = Quotas()


AZURE = Offer()
"""Azure's sizes and images without any quota."""
