"""The room that a server has in its directory, on a file system that is really full."""

from __future__ import annotations

from collections.abc import Callable

from tests.conftest import SmallDisk

from batchyard.disk.space import Room

MIB = 1 << 20


def test_whatever_takes_what_was_given_up_leaves_the_next_half(small_disk: Callable[[int], SmallDisk]) -> None:
    disk = small_disk(64 * MIB)
    room = Room(disk.path)
    room.watch()
    reserve = disk.path / "reserve"
    whole = reserve.stat().st_size
    for _ in range(4):
        disk.fill()
        room.watch()
        assert disk.free() > 0
        given = disk.free()
        room.watch()
        if given >= MIB // 4:
            assert disk.free() == given, "what is given up is not given twice"
    disk.relieve()
    room.watch()
    assert reserve.stat().st_size == whole


def test_the_last_of_the_reserve_goes_too(small_disk: Callable[[int], SmallDisk]) -> None:
    disk = small_disk(64 * MIB)
    room = Room(disk.path)
    room.watch()
    while (disk.path / "reserve").exists():
        disk.fill()
        room.watch()
        assert disk.free() > 0
    room.watch()
    assert room.for_work() is not None
