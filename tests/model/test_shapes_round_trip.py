"""What a client sends comes back as it was: names, values, spelling; what no client may send is refused."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import inspect

from batchyard import model as package
from batchyard.model import times
from batchyard.model.common import Duration, Shape, Timestamp
from batchyard.model.job import JobPatch
from batchyard.model.pool import PoolPatch
from batchyard.model.states import Word

# sync holds what server and agent say to each other; its readers ignore unknown members.
MODULES = [
    importlib.import_module(f"batchyard.model.{found.name}")
    for found in pkgutil.iter_modules(package.__path__)
    if found.name not in ("sync", "explain")  # explanations hold each other without end, and are never read
]
SHAPES = sorted(
    {
        found
        for module in MODULES
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Shape) and found is not Shape
    },
    key=lambda shape: shape.__name__,
)
WORDS = sorted(
    {
        found
        for module in MODULES
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Word) and found is not Word
    },
    key=lambda word: word.__name__,
)
SCALARS: dict[type[inspect.Type], Any] = {
    inspect.IntType: 7,
    inspect.FloatType: 1.5,
    inspect.BoolType: True,
    inspect.AnyType: {"any": ["thing"]},
    inspect.RawType: {"raw": 1},
}


def sample(kind: inspect.Type, *, full: bool) -> Any:
    """JSON value of a type: with all its properties, or with the required ones only."""
    if isinstance(kind, inspect.Metadata):
        return sample(kind.type, full=full)
    if isinstance(kind, inspect.UnionType):
        return sample(next(t for t in kind.types if not isinstance(t, inspect.NoneType)), full=full)
    if isinstance(kind, inspect.StructType):
        return {f.encode_name: sample(f.type, full=full) for f in kind.fields if full or f.required}
    if isinstance(kind, inspect.ListType):
        return [sample(kind.item_type, full=full)]
    if isinstance(kind, inspect.DictType):
        return {"key": sample(kind.value_type, full=full)}
    if isinstance(kind, inspect.EnumType):
        return list(kind.cls)[-1].value
    if isinstance(kind, inspect.StrType):
        return next(text for text in ("text", "P1DT2H", "2025-01-02T03:04:05.123Z") if _fits(text, kind))
    return SCALARS[type(kind)]


def _fits(text: str, kind: inspect.StrType) -> bool:
    meta = msgspec.Meta(pattern=kind.pattern) if kind.pattern else msgspec.Meta()
    try:
        msgspec.convert(text, type=Annotated[str, meta])
    except msgspec.ValidationError:
        return False
    return True


@pytest.mark.parametrize("full", [True, False], ids=["full", "required"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_values_survive(shape: type[Shape], full: bool) -> None:
    sent = sample(inspect.type_info(shape), full=full)
    assert msgspec.json.decode(msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(sent), type=shape))) == sent


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_an_unknown_property_is_refused(shape: type[Shape]) -> None:
    sent = sample(inspect.type_info(shape), full=False) | {"noSuchProperty": 1}
    with pytest.raises(msgspec.ValidationError, match="noSuchProperty"):
        msgspec.json.decode(msgspec.json.encode(sent), type=shape)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_null_is_absent_but_in_a_patch(shape: type[Shape]) -> None:
    required = sample(inspect.type_info(shape), full=False)
    nulls = {f.encode_name: None for f in msgspec.structs.fields(shape) if not f.required}
    answer = msgspec.json.decode(msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(required | nulls), type=shape)))
    assert answer == (required | nulls if shape.__name__.endswith("Patch") else required)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_only_none_and_unset_are_defaults(shape: type[Shape]) -> None:
    """Any other default would be left out when a client sends it."""
    assert {f.default for f in msgspec.structs.fields(shape)} <= {None, msgspec.UNSET, msgspec.NODEFAULT}
    assert all(f.default_factory is msgspec.NODEFAULT for f in msgspec.structs.fields(shape))


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.__name__)
def test_words_are_read_in_any_case_and_written_exactly(word: type[Word]) -> None:
    for member in word:
        for text in (member.value, member.value.upper(), member.value.lower(), member.value.swapcase()):
            read = msgspec.json.decode(msgspec.json.encode(text), type=word)
            assert msgspec.json.encode(read) == msgspec.json.encode(member.value)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert("no such word", type=word)


def test_numbers_sent_as_text_are_read_where_asked() -> None:
    assert msgspec.json.decode(b'{"priority": "12"}', type=JobPatch, strict=False).priority == 12


def test_a_patch_knows_null_from_absent() -> None:
    patch = msgspec.json.decode(b'{"metadata": [], "startTask": null}', type=PoolPatch)
    assert patch.metadata == []
    assert patch.start_task is None
    assert patch.vm_size is msgspec.UNSET
    assert msgspec.json.encode(PoolPatch()) == b"{}"


@pytest.mark.parametrize(
    "text",
    [
        *("P", "P0D", "PT0S", "PT15M", "P1DT2H", "PT01H00M00S", "P1DT01H00M00.5S", "P3Y6M4DT12H30M5S", "P2W", "P1000000000D"),
        *("P10675199DT2H48M5.4775807S", "P10675199DT02H48M05.477539S", "P10675199DT2H48M5.477581S", "P999999999DT23H59M59.999999S"),
    ],
)
def test_durations_of_all_clients(text: str) -> None:
    assert msgspec.convert(text, type=Duration) == text
    times.duration(text)


@pytest.mark.parametrize("text", ["", "T1H", "PT", "P1DT", "1.00:00:00", "-PT1H", "PT1H\n", "pt1h", "PT1M1H", "60"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, type=Duration)


@pytest.mark.parametrize(
    "text",
    [
        "2020-03-21T02:14:17Z",
        "2020-03-21T02:14:17.451Z",
        "2020-03-21T02:14:17.4510127Z",
        "2020-03-21T02:14:17+01:00",
        "2020-03-21T02:14:17",
    ],
)
def test_times_of_all_clients(text: str) -> None:
    assert msgspec.convert(text, type=Timestamp) == text
    times.from_iso(text)


@pytest.mark.parametrize("text", ["", "2020-03-21", "21.03.2020 02:14:17", "2020-03-21T02:14:17Z\n", "1584756857"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, type=Timestamp)


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-00:01", "9999-12-31T23:59:59-23:00", "0001-01-01T00:00:00+23:00"])
def test_times_that_could_not_be_written_in_utc_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="years 1 to 9999"):
        times.from_iso(text)


def test_http_dates_that_could_not_be_written_in_utc_are_none() -> None:
    with pytest.raises(ValueError, match="years 1 to 9999"):
        times.from_http_date("Fri, 31 Dec 9999 23:59:59 -2300")


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999+14:00"])
def test_the_first_and_the_last_times_can_be_written(text: str) -> None:
    assert times.iso(times.from_iso(text)) == text or "+" in text


@pytest.mark.parametrize("text", ["P" + "9" * 400 + "D", "PT" + "9" * 400 + ".5S", "P1Y" + "9" * 400 + "DT0.5S"])
def test_durations_of_any_length_are_infinite(text: str) -> None:
    assert times.duration(text) is None
