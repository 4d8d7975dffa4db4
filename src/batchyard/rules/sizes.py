"""What a vmSize means: Azure's names as a table, and what an operator says of them (contract 7.1).

A name is known when the table or a rule of the operator knows it. Cores count for quotas and for task slots; a limit of
0 means that tasks of a node may use whatever the machine has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from types import MappingProxyType

import msgspec

GIB = 1024**3
MOST_SLOTS = 256
SLOTS_PER_CORE = 4
LOCAL = "local"


class AzureSize(msgspec.Struct, frozen=True):
    """Cores and memory of a size as Azure sells it."""

    cores: int
    memory_gib: float


class Size(msgspec.Struct, frozen=True):
    """What a node of a size gets."""

    cores: int
    """Count for quotas and slots."""
    memory_bytes: int
    """0 when nobody said."""
    core_limit: int = 0
    """Cores that its tasks may use; 0 for no limit."""
    memory_limit_bytes: int = 0
    task_disk_bytes: int = 0
    """Room on the disk that each of its tasks may take; 0 for no limit."""
    most_slots: int = MOST_SLOTS
    provider: str = LOCAL
    labels: Mapping[str, str] = {}


class SizeRule(msgspec.Struct, frozen=True):
    """What the operator says of a size, or of all that a pattern with `*` and `?` matches; None leaves it as Azure has it."""

    name: str
    cores: int | None = None
    memory_bytes: int | None = None
    max_slots: int | None = None
    task_disk_bytes: int = 0
    provider: str = LOCAL
    labels: Mapping[str, str] = {}
    enforce: bool = False
    """Hold nodes to the cores and the memory of the size even where the rule does not name them."""


class Sizes(msgspec.Struct, frozen=True):
    """All sizes: the first rule that matches speaks, on top of Azure's table; `enforce` is for sizes without a rule too."""

    rules: tuple[SizeRule, ...] = ()
    enforce: bool = False

    def find(self, name: str) -> Size | None:
        """What a node of a size gets; None when the size is not known."""
        name = name.lower()
        if _LETTERS.fullmatch(name) is None:
            return None
        known = azure_size(name)
        rule = next((rule for rule in self.rules if fnmatchcase(name, rule.name.lower())), None)
        cores = rule.cores if rule is not None and rule.cores is not None else known.cores if known is not None else None
        if cores is None:
            return None
        memory = rule.memory_bytes if rule is not None and rule.memory_bytes is not None else int(known.memory_gib * GIB) if known else 0
        enforced = self.enforce or (rule is not None and rule.enforce)
        return Size(
            cores=cores,
            memory_bytes=memory,
            core_limit=cores if enforced or (rule is not None and rule.cores is not None) else 0,
            memory_limit_bytes=memory if enforced or (rule is not None and rule.memory_bytes is not None) else 0,
            most_slots=rule.max_slots if rule is not None and rule.max_slots is not None else min(SLOTS_PER_CORE * cores, MOST_SLOTS),
            task_disk_bytes=0 if rule is None else rule.task_disk_bytes,
            provider=LOCAL if rule is None else rule.provider,
            labels={} if rule is None else rule.labels,
        )


def _row(text: str) -> Sequence[int]:
    return tuple(map(int, text.split()))


_SMALL, _MIDDLE, _LARGE = "2 4 8 16", "2 4 8 16 32 48 64 96", "2 4 8 16 20 32 48 64 72 80 96 104 112 128 176 192"

_FAMILIES: Sequence[tuple[str, Sequence[int], float]] = tuple(
    (family, _row(cores), memory)
    for family, cores, memory in (
        # family with `#` for the cores, the numbers of cores that there are, GiB a core
        ("a#_v2", "1 2 4 8", 2), ("a#m_v2", "2 4 8", 8),
        ("b#ms", "2 4 8 12 16 20", 4), ("b#p?a?s_v2", "2 4 8 16 32", 4), ("b#p?a?ls_v2", "2 4", 2),
        ("d#s?_v3", "2 4 8 16 32 48 64", 4), ("d#d?s?_v4", "2 4 8 16 32 48 64", 4), ("d#as?_v4", _MIDDLE, 4),
        ("d#[adnps]*_v[5-7]", _LARGE, 4), ("d#[adnps]*l[adnps]*_v[5-7]", _LARGE, 2),
        ("e#s?_v3", "2 4 8 16 20 32 48 64", 8), ("e#i?d?s?_v[345]", _LARGE, 8), ("e#as?_v4", "2 4 8 16 20 32 48 64 96", 8),
        ("e#[abdinps]*_v[5-7]", _LARGE, 8),
        ("f#s?", "1 2 4 8 16", 2), ("f#s_v2", "2 4 8 16 32 48 64 72", 2),
        ("f#ad?s_v[67]", _LARGE, 4), ("f#ald?s_v[67]", _LARGE, 2), ("f#amd?s_v[67]", _LARGE, 8),
        ("fx#mds", "4 12 24 36 48", 21), ("fx#md?s_v2", "2 4 8 12 16 24 32 48 64 96", 21),
        ("l#s", "4 8 16 32", 8), ("l#a?s_v[23]", "8 16 32 48 64 80", 8), ("l#a?s_v4", "2 4 8 16 32 48 64 80 96", 8),
        ("dc#d?s_v3", "1 2 4 8 16 24 32 48", 8), ("dc#s_v2", "1 2 4 8", 4), ("dc#[ade]*s_v[56]", _MIDDLE, 4),
        ("ec#i?[ade]*s_v[56]", "2 4 8 16 20 32 48 64 96", 8),
        ("nc#as_t4_v3", "4 8", 7), ("nc#ads_a100_v4", "24 48 96", 220 / 24), ("nc#adi?s_h100_v5", "40 80", 8),
        ("nc#", "6 12 24", 56 / 6), ("nc#r", "24", 56 / 6), ("nc#s_v[23]", "6 12 24", 112 / 6), ("nc#rs_v[23]", "24", 112 / 6),
        ("nd#s", "6 12 24", 112 / 6), ("nd#rs", "24", 112 / 6),
        ("nv#", "6 12 24", 56 / 6), ("nv#s_v2", "6 12 24", 112 / 6), ("nv#s_v3", "12 24 48", 112 / 12), ("nv#as_v4", "4 8 16 32", 3.5),
        ("nv#ads_a10_v5", "6 12 18 36 72", 55 / 6), ("nv#adms_a10_v5", "36", 880 / 36), ("np#s", "10 20 40", 16.8),
        ("ng#ads_v620_v1", "8 16 32", 2),
    )
)  # fmt: skip

_ODD: Mapping[str, AzureSize] = MappingProxyType(
    {
        name: AzureSize(cores, memory)
        for names, cores, memory in (
            ("a0", 1, 0.75), ("a1", 1, 1.75), ("a2", 2, 3.5), ("a3", 4, 7), ("a4", 8, 14), ("a5", 2, 14), ("a6", 4, 28), ("a7", 8, 56),
            ("a8 a10", 8, 56), ("a9 a11", 16, 112),
            ("b1ls", 1, 0.5), ("b1s", 1, 1), ("b1ms", 1, 2), ("b2s", 2, 4), ("b2ts_v2 b2ats_v2 b2pts_v2", 2, 1),
            ("d1 ds1 d1_v2 ds1_v2", 1, 3.5), ("d2 ds2 d2_v2 ds2_v2", 2, 7), ("d3 ds3 d3_v2 ds3_v2", 4, 14),
            ("d4 ds4 d4_v2 ds4_v2", 8, 28), ("d5_v2 ds5_v2", 16, 56), ("d11 ds11 d11_v2 ds11_v2", 2, 14),
            ("d12 ds12 d12_v2 ds12_v2", 4, 28), ("d13 ds13 d13_v2 ds13_v2", 8, 56), ("d14 ds14 d14_v2 ds14_v2", 16, 112),
            ("d15_v2 ds15_v2", 20, 140),
            ("g1 gs1", 2, 28), ("g2 gs2", 4, 56), ("g3 gs3", 8, 112), ("g4 gs4", 16, 224), ("g5 gs5", 32, 448),
            ("h8", 8, 56), ("h8m", 8, 112), ("h16 h16r", 16, 112), ("h16m h16mr", 16, 224), ("hb60rs", 60, 228), ("hc44rs", 44, 352),
            ("hb120rs_v2", 120, 456), ("hb120rs_v3", 120, 448), ("hb176rs_v4", 176, 704), ("hb368rs_v5", 368, 432), ("hx176rs", 176, 1408),
            ("m8ms", 8, 218.75), ("m16ms", 16, 437.5), ("m32ts", 32, 192), ("m32ls", 32, 256), ("m32ms", 32, 875), ("m32ms_v2", 32, 875),
            ("m32dms_v2", 32, 875), ("m64ls", 64, 512), ("m64 m64s m64s_v2 m64ds_v2", 64, 1024),
            ("m64m m64ms m64ms_v2 m64dms_v2", 64, 1792),
            ("m128 m128s m128s_v2 m128ds_v2", 128, 2048), ("m128m m128ms m128ms_v2 m128dms_v2", 128, 3892),
            ("m192is_v2 m192ids_v2", 192, 2048), ("m192ims_v2 m192idms_v2", 192, 4096), ("m208s_v2", 208, 2850), ("m208ms_v2", 208, 5700),
            ("m416s_v2", 416, 5700), ("m416ms_v2", 416, 11400), ("m12s_v3 m12ds_v3", 12, 240), ("m24s_v3 m24ds_v3", 24, 480),
            ("m48s_1_v3 m48ds_1_v3", 48, 974), ("m96s_1_v3 m96ds_1_v3", 96, 974), ("m96s_2_v3 m96ds_2_v3", 96, 1946),
            ("nc16as_t4_v3", 16, 110), ("nc64as_t4_v3", 64, 440), ("nd40rs_v2", 40, 672), ("nd96asr_v4", 96, 900),
            ("nd96amsr_a100_v4 nd96isr_h100_v5 nd96isr_h200_v5", 96, 1900),
        )
        for name in names.split()
    }
)  # fmt: skip

_LETTERS = re.compile(r"[a-z0-9_.-]{1,64}")
_NAME = re.compile(
    r"(?P<tier>standard|basic)_(?P<name>(?P<family>[a-z]{1,3})(?P<cores>[0-9]{1,3})(-(?P<fewer>[0-9]{1,3}))?(?P<rest>[a-z0-9_]*))"
)
_SHAPES = tuple((re.compile(family.replace("#", "")), cores, memory) for family, cores, memory in _FAMILIES)


@lru_cache(maxsize=1024)
def azure_size(name: str) -> AzureSize | None:
    """Cores and memory of an Azure name in lower case, None for one that Azure does not have; `e8-2s_v5` is an `e8s_v5` with 2 cores."""
    match = _NAME.fullmatch(name.removesuffix("_promo"))
    if match is None:
        return None
    family, cores, rest = match["family"], int(match["cores"]), match["rest"]
    if match["tier"] == "basic":
        return _ODD.get(f"{family}{cores}") if family == "a" and cores <= 4 and not rest else None
    whole = _ODD.get(f"{family}{cores}{rest}") or next(
        (
            AzureSize(cores, round(cores * memory, 2))
            for shape, numbers, memory in _SHAPES
            if cores in numbers and shape.fullmatch(family + rest)
        ),
        None,
    )
    if whole is None or match["fewer"] is None:
        return whole
    fewer = int(match["fewer"])
    return AzureSize(fewer, whole.memory_gib) if 0 < fewer < whole.cores else None
