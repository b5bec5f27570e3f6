"""A FIFO at which a reader waits without noticing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from zeropod.kernel.fifo_barrier import FifoBarrier

READER = "import sys; print(open(sys.argv[1]).read())"


def start(program: str, path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True)


async def test_a_reader_waits_until_it_is_told_what_to_read(tmp_path: Path) -> None:
    path = tmp_path / "criu.conf"
    path.write_text("the old one")
    barrier = FifoBarrier(path)
    reader = start(READER, path)
    with reader:
        with trio.fail_after(30):
            await barrier.reached()
        assert reader.poll() is None
        barrier.let_through("network-lock skip")
        assert reader.communicate(timeout=30)[0] == "network-lock skip\n"
    assert not path.exists()
    path.write_text("the next one")  # is an ordinary file


async def test_all_that_it_reads_of_one_who_dies_is_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "criu.conf"
    barrier = FifoBarrier(path, "network-lock")
    with start(READER, path) as reader:
        with trio.fail_after(30):
            await barrier.reached()
        barrier.close()
        assert reader.communicate(timeout=30)[0] == "network-lock\n"


async def test_nobody_has_reached_a_gate_to_which_nobody_came(tmp_path: Path) -> None:
    barrier = FifoBarrier(tmp_path / "criu.conf")
    with trio.move_on_after(0.01) as patience:
        await barrier.reached()
    assert patience.cancelled_caught
    barrier.close()
    barrier.close()
    assert os.listdir(tmp_path) == []


async def test_what_does_not_fit_is_an_error_and_not_half_of_it(tmp_path: Path) -> None:
    barrier = FifoBarrier(tmp_path / "criu.conf")
    with pytest.raises(OSError, match="do not fit"):
        barrier.let_through("x" * (1 << 20))
    barrier.close()
