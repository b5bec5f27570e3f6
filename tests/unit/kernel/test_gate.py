"""A FIFO at which a reader waits without noticing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from zeropod.kernel.gate import Gate

READER = "import sys; print(open(sys.argv[1]).read())"


def start(program: str, path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True)


async def test_a_reader_waits_until_it_is_told_what_to_read(tmp_path: Path) -> None:
    path = tmp_path / "criu.conf"
    path.write_text("the old one")
    gate = Gate(path)
    reader = start(READER, path)
    with reader:
        with trio.fail_after(30):
            await gate.reached()
        assert reader.poll() is None
        gate.let_through("network-lock skip")
        assert reader.communicate(timeout=30)[0] == "network-lock skip\n"
    assert not path.exists()
    path.write_text("the next one")  # is an ordinary file


async def test_all_that_it_reads_of_one_who_dies_is_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "criu.conf"
    gate = Gate(path, "network-lock")
    with start(READER, path) as reader:
        with trio.fail_after(30):
            await gate.reached()
        gate.close()
        assert reader.communicate(timeout=30)[0] == "network-lock\n"


async def test_nobody_has_reached_a_gate_to_which_nobody_came(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "criu.conf")
    with trio.move_on_after(0.01) as patience:
        await gate.reached()
    assert patience.cancelled_caught
    gate.close()
    gate.close()
    assert os.listdir(tmp_path) == []


async def test_what_does_not_fit_is_an_error_and_not_half_of_it(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "criu.conf")
    with pytest.raises(OSError, match="do not fit"):
        gate.let_through("x" * (1 << 20))
    gate.close()
