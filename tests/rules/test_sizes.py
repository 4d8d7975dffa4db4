"""What a vmSize means: Azure's names, the operator's rules on top of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.rules.sizes import GIB, MOST_SLOTS, Size, SizeRule, Sizes, azure_size


@pytest.mark.parametrize(
    ("name", "cores", "memory_gib"),
    [
        ("standard_a1_v2", 1, 2), ("standard_a4m_v2", 4, 32), ("standard_a7", 8, 56), ("basic_a2", 2, 3.5),
        ("standard_b1ls", 1, 0.5), ("standard_b2s", 2, 4), ("standard_b4ms", 4, 16), ("standard_b2ts_v2", 2, 1),
        ("standard_b8as_v2", 8, 32),
        ("standard_d1", 1, 3.5), ("standard_ds3_v2", 4, 14), ("standard_d14_v2", 16, 112), ("standard_d11_v2_promo", 2, 14),
        ("standard_d2s_v3", 2, 8), ("standard_d4_v3", 4, 16), ("standard_d64ds_v4", 64, 256), ("standard_d96as_v4", 96, 384),
        ("standard_d8ads_v5", 8, 32), ("standard_d2plds_v5", 2, 4), ("standard_d4ls_v5", 4, 8), ("standard_d2alds_v6", 2, 4),
        ("standard_d192s_v6", 192, 768),
        ("standard_e4s_v3", 4, 32), ("standard_e8-2s_v5", 2, 64), ("standard_e96-24ads_v5", 24, 768), ("standard_e2bds_v5", 2, 16),
        ("standard_f1", 1, 2), ("standard_f4s_v2", 4, 8), ("standard_f8als_v6", 8, 16), ("standard_f8ams_v6", 8, 64),
        ("standard_fx4mds", 4, 84), ("standard_l8s_v3", 8, 64), ("standard_l16as_v3", 16, 128),
        ("standard_m64s", 64, 1024), ("standard_m128-32ms", 32, 3892), ("standard_m416ms_v2", 416, 11400),
        ("standard_nc6", 6, 56), ("standard_nc6s_v3", 6, 112), ("standard_nc24ads_a100_v4", 24, 220), ("standard_nc64as_t4_v3", 64, 440),
        ("standard_nd96asr_v4", 96, 900), ("standard_nv12s_v3", 12, 112), ("standard_nv6ads_a10_v5", 6, 55), ("standard_np10s", 10, 168),
        ("standard_h16mr", 16, 224), ("standard_hb120rs_v3", 120, 448), ("standard_hb120-16rs_v3", 16, 448), ("standard_hc44rs", 44, 352),
        ("standard_dc4as_v5", 4, 16), ("standard_dc2s_v3", 2, 16), ("standard_ec8ads_v5", 8, 64), ("standard_g5", 32, 448),
    ],
)  # fmt: skip
def test_azures_sizes(name: str, cores: int, memory_gib: float) -> None:
    found = azure_size(name)
    assert found is not None
    assert (found.cores, found.memory_gib) == (cores, memory_gib)


@pytest.mark.parametrize(
    "name",
    [
        "", "small", "d2s_v3", "standard_", "standard_d", "standard_d3_v3", "standard_d2s_v9", "standard_d2s_v33", "standard_d2s-v3",
        "standard_e8-8s_v5", "standard_e8-0s_v5", "standard_e8-16s_v5", "basic_d1", "basic_a5", "standard_z2s_v3", "standard_d2s_v3 ",
        "standard_d²s_v3", "x" * 10_000,
    ],
)  # fmt: skip
def test_names_that_azure_does_not_have(name: str) -> None:
    assert azure_size(name) is None


@given(st.text(max_size=80))
def test_any_text_is_a_size_or_none(name: str) -> None:
    found = Sizes().find(name)
    assert found is None or (found.cores > 0 and 1 <= found.most_slots <= MOST_SLOTS)


def test_without_rules_a_node_has_no_limits_and_four_slots_a_core() -> None:
    assert Sizes().find("STANDARD_D2S_V3") == Size(cores=2, memory_bytes=8 * GIB, most_slots=8)
    wide = Sizes().find("standard_hb120rs_v3")
    assert wide is not None
    assert wide.most_slots == MOST_SLOTS


def test_the_first_rule_that_matches_speaks() -> None:
    sizes = Sizes((
        SizeRule("Standard_D2s_v3", max_slots=3, labels={"rack": "a"}),
        SizeRule("standard_d*", cores=1, memory_bytes=GIB),
        SizeRule("standard_e?s_v3", enforce=True),
        SizeRule("yard-*", cores=6),
    ))  # fmt: skip
    assert sizes.find("standard_d2s_v3") == Size(cores=2, memory_bytes=8 * GIB, most_slots=3, labels={"rack": "a"})
    limited = sizes.find("standard_d4s_v3")
    assert limited == Size(cores=1, memory_bytes=GIB, core_limit=1, memory_limit_bytes=GIB, most_slots=4)
    assert sizes.find("standard_d77") == limited, "a rule with cores needs no name of Azure's"
    held = sizes.find("standard_e4s_v3")
    assert held == Size(cores=4, memory_bytes=32 * GIB, core_limit=4, memory_limit_bytes=32 * GIB, most_slots=16)
    assert sizes.find("yard-1") == Size(cores=6, memory_bytes=0, core_limit=6, most_slots=24)
    assert sizes.find("standard_z1") is None


def test_a_pattern_without_cores_knows_only_what_azure_knows() -> None:
    for name in ("", " ", "x" * 65, "a b", "größe", "a\n"):
        assert Sizes((SizeRule("*", cores=2),)).find(name) is None
    sizes = Sizes((SizeRule("*", max_slots=2),))
    assert sizes.find("small") is None
    found = sizes.find("standard_d2s_v3")
    assert found is not None
    assert (found.cores, found.most_slots) == (2, 2)


def test_all_sizes_can_be_enforced() -> None:
    found = Sizes(enforce=True).find("standard_f2s_v2")
    assert found is not None
    assert (found.core_limit, found.memory_limit_bytes) == (2, 4 * GIB)
