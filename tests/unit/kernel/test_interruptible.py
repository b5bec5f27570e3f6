"""Writes that the kernel does not finish are broken off, by a signal that never gets lost."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from zeropod.kernel import interruptible


@pytest.fixture
def prepared() -> Iterator[None]:
    before = signal.getsignal(signal.SIGURG)
    interruptible.prepare()
    try:
        yield
    finally:
        signal.signal(signal.SIGURG, before)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A pipe by a path, into which nothing more goes: a write waits for ever."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        while True:
            try:
                os.write(reading, bytes(65536))
            except BlockingIOError:
                break
        yield path
    finally:
        os.close(reading)


def test_a_write_that_ends_is_finished(tmp_path: Path, prepared: None) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert interruptible.write(file, "0", lambda: threading.Event().wait(0.001))
    assert file.read_text() == "0"


@pytest.mark.parametrize("round_", range(20))
def test_a_write_that_does_not_end_is_broken_off(full: Path, prepared: None, round_: int) -> None:
    # At once, too: the signal may then come before the write has begun.
    looks = iter([False] * (round_ % 3))
    found: list[bool] = []
    thread = threading.Thread(
        target=lambda: found.append(interruptible.write(full, "0", lambda: next(looks, True))), daemon=True
    )
    thread.start()
    thread.join(10)
    assert found == [False]


def test_a_file_that_is_not_there_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        interruptible.write(tmp_path / "file", "0", lambda: True)
    assert not (tmp_path / "file").exists()


def test_a_handler_of_others_is_left_alone(prepared: None) -> None:
    def theirs(number: int, frame: object) -> None: ...

    signal.signal(signal.SIGURG, theirs)
    interruptible.prepare()
    assert signal.getsignal(signal.SIGURG) is theirs


def test_preparing_in_another_thread_does_nothing() -> None:
    before = signal.signal(signal.SIGURG, signal.SIG_DFL)
    thread = threading.Thread(target=interruptible.prepare)
    thread.start()
    thread.join()
    try:
        assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGURG, before)
