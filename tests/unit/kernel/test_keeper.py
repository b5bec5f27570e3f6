"""What a process that is killed had open stays open in its keeper."""

import mmap
import os
import signal
from pathlib import Path

import pytest

from zeropod.kernel import keeper, pidfd
from zeropod.kernel.keeper import Keeper

NAME = "keeper-test"


def recorded(memory: mmap.mmap) -> int:
    return int.from_bytes(memory[:4], "little")


def test_it_has_what_we_open_after_it_was_started() -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    kept = Keeper(60, memory, 0)
    try:
        reading, writing = os.pipe()
        ours = os.readlink(f"/proc/self/fd/{writing}")
        assert os.readlink(f"/proc/{recorded(memory)}/fd/{writing}") == ours
        os.close(writing)
        assert not os.path.lexists(f"/proc/{recorded(memory)}/fd/{writing}")
        os.close(reading)
    finally:
        pid = recorded(memory)
        kept.end()
    assert recorded(memory) == 0
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("name", [NAME, "another"])
def test_it_outlives_who_has_started_it_until_somebody_else_ends_it(name: str) -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        pidfd.set_name(NAME)
        keeping = Keeper(20, memory, 0)  # which owns the stack that it runs on
        os.kill(os.getpid(), signal.SIGKILL)
        del keeping
    os.close(writing)
    os.waitpid(child, 0)
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)  # the keeper has the other end
    keeper.end(recorded(memory), name)
    if name != NAME:
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)
        keeper.end(recorded(memory), NAME)
    os.set_blocking(reading, True)
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_ending_one_that_has_ended_is_nothing() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    keeper.end(child, NAME)
