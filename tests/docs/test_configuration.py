"""The configuration file of the documentation is one that works, and every setting is in the page."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import msgspec
import pytest

from batchyard import config, effective
from batchyard.config import Misconfigured
from batchyard.rules.offer import AZURE, Offer, Quotas
from batchyard.rules.sizes import GIB, Size

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The file in the page."""
    [text] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "batchyard.toml"
    path.write_text(text)
    return path


def load(path: Path) -> Offer:
    """What a file offers."""
    return effective.resolve(path.parent, path, {}, {}).config.offer


def test_the_settings_are_printed_from_the_table() -> None:
    spec = importlib.util.spec_from_file_location("settings", Path(__file__).parents[2] / "scripts" / "settings.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.page() == PAGE, "run scripts/settings.py --write"


def test_the_example_means_what_it_says(example: Path) -> None:
    offer = load(example)
    assert offer.quotas == Quotas(dedicated_cores=64, low_priority_cores=32, pools=20, active_jobs=100)
    sizes = offer.sizes
    assert sizes.find("Standard_D2s_v3") == Size(cores=2, memory_bytes=8 * GIB, most_slots=16, labels={"rack": "north"})
    limited = Size(cores=2, memory_bytes=4 * GIB, core_limit=2, memory_limit_bytes=4 * GIB, most_slots=8)
    assert sizes.find("standard_e64s_v5") == limited
    assert sizes.find("yard-large") == Size(cores=8, memory_bytes=0, core_limit=8, most_slots=32, task_disk_bytes=20 * GIB)
    held = sizes.find("standard_f4s_v2")
    assert held == Size(cores=4, memory_bytes=8 * GIB, core_limit=4, memory_limit_bytes=8 * GIB, most_slots=16)
    assert sizes.find("standard_a1_v2") == Size(cores=1, memory_bytes=2 * GIB, most_slots=4)
    assert offer.images == AZURE.images


@pytest.mark.parametrize("shape", [config._File, config._Size, Quotas])
def test_every_setting_is_documented(shape: type[msgspec.Struct]) -> None:
    for name in shape.__struct_fields__:
        assert re.search(rf"(^|[`\[]){name}\b", PAGE, re.MULTILINE), name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sizes = 5", "sizes: expected `array`, got `int`"),
        ("port = 1\ncolour = 'red'", "batchyard.toml line 2: there is no setting colour"),
        ("node = 3", "batchyard.toml line 1: there is no setting node; did you mean nodes?"),
        ("[quota]\npools = 3", "batchyard.toml line 1: there is no setting quota; did you mean quotas?"),
        ("nodes = '3'", "batchyard.toml line 1: nodes wants a whole number; it got '3'"),
        ("nodes = true", "nodes wants a whole number; it got True"),
        ("chaos = 1", "chaos wants true or false; it got 1"),
        ("port = 65536", "port wants a whole number from 0 to 65535; it got 65536"),
        ("node_silence = nan", "node_silence wants a number of at least 1; it got nan"),
        ("provider = 'locale'", "provider is one of local, external; it got 'locale'; did you mean local?"),
        ("trusted_proxy = '10.0.0.1'", "trusted_proxy wants a list of texts; it got '10.0.0.1'"),
        ("trusted_proxy = ['*']", "batchyard.toml line 1: --trusted-proxy takes an IP address or a network"),
        ("# x\n[quotas]\npool = 5", "batchyard.toml line 3: there is no setting pool in quotas; did you mean pools?"),
        ("[quotas]\npools = 'many'", "batchyard.toml line 2: quotas.pools: expected `int | null`, got `str`"),
        ("[quotas]\npools = -1", "batchyard.toml line 2: quotas.pools must not be negative"),
        ("[[sizes]]\ncores = 2", "batchyard.toml line 1: sizes[0] needs name"),
        (
            "[[sizes]]\nname = 'a'\ncores = 1\n[[sizes]]\nname='b'\ncore = 2",
            "line 6: there is no setting core in sizes[1]; did you mean cores?",
        ),
        ("[[sizes]]\nname = 'mine'", "[[sizes]] number 1 (mine): Azure has no size of this name, so cores must be given"),
        ("[[sizes]]\nname = 'mine'\ncores = 0", "[[sizes]] number 1 (mine): cores must be between 1 and 100000"),
        (
            "[[sizes]]\nname = 'a b'\ncores = 1",
            "[[sizes]] number 1 (a b): a name is 1 to 64 letters, digits, hyphens, dots and underscores,",
        ),
        ("[[sizes]]\nname = 'a'\ncores = 1\nmemory = 'much'", "memory is an amount of at least 1 MiB such as '4 GiB', not 'much'"),
        ("[[sizes]]\nname = 'a'\ncores = 1\nmemory = 5", "memory is an amount of at least 1 MiB such as '4 GiB', not 5"),
        ("[[sizes]]\nname = 'a'\ncores = 1\ntask_disk = 'all'", "task_disk is an amount of at least 1 MiB such as '4 GiB', not 'all'"),
        ("[[sizes]]\nname = 'a'\ncores = 1\nmax_slots = 257", "max_slots must be between 1 and 256"),
        ("[[sizes]]\nname = '*'\nprovider = 'slurm'", "there is no provider slurm; known: local"),
        ("[sizes", "is not TOML"),
        ("x = '\udcff'", "is not TOML"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "batchyard.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(Misconfigured) as wrong:
        load(path)
    assert str(path) in str(wrong.value)
    assert said in str(wrong.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"cannot be read \(No such file or directory\)"):
        load(tmp_path / "none.toml")
