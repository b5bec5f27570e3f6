"""Word of what comes and goes in a directory, from the real kernel."""

import os
import struct
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel.inotify import Change, DirectoryWatch, Event, parse


async def heard(watch: DirectoryWatch, number: int) -> list[Event]:
    found: list[Event] = []
    with trio.fail_after(5):
        while len(found) < number:
            found += await watch.events()
    return found


async def test_what_comes_and_goes_is_told(tmp_path: Path) -> None:
    with DirectoryWatch(tmp_path) as watch:
        (tmp_path / "made").touch()
        (tmp_path / "made").rename(tmp_path / "named")
        (tmp_path / "named").unlink()
        found = await heard(watch, 4)
    appeared, vanished = Change.APPEARED, Change.VANISHED
    assert found == [
        Event(appeared, "made"),
        Event(vanished, "made"),
        Event(appeared, "named"),
        Event(vanished, "named"),
    ]


async def test_what_takes_anothers_place_has_appeared(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    (tmp_path / "new").touch()
    with DirectoryWatch(tmp_path) as watch:
        (tmp_path / "new").rename(tmp_path / "old")
        assert (await heard(watch, 2))[1] == Event(Change.APPEARED, "old")


async def test_the_end_of_the_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with DirectoryWatch(tmp_path / "d") as watch:
        (tmp_path / "d").rmdir()
        assert {event.change for event in await heard(watch, 1)} == {Change.DIRECTORY_GONE}


def test_what_is_no_directory_cannot_be_watched(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path / "nothing", Path("/etc/passwd")):
        with pytest.raises(OSError, match="inotify_add_watch"):
            DirectoryWatch(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_overflow_is_told() -> None:
    assert list(parse(struct.pack("=iIII", -1, 0x4000, 0, 0))) == [Event(Change.LOST_TRACK)]


@given(st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)))
def test_names_are_read_whatever_their_padding(names: list[str]) -> None:
    data = b""
    for name in names:
        padded = name.encode() + b"\0" * (16 - len(name) % 16)
        data += struct.pack("=iIII", 1, 0x100, 0, len(padded)) + padded
    assert list(parse(data)) == [Event(Change.APPEARED, name) for name in names]


@given(st.binary())
def test_nothing_that_is_read_raises(data: bytes) -> None:
    list(parse(data))
