"""Copying between descriptors: nothing lost, nothing doubled, nobody spinning."""

import os
import pty
import tty
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from zeropod.kernel import splice


class Pipe:
    """A pipe whose ends can be closed in any order, more than once."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        self._open = {self.read, self.write}

    def shut(self, *fds: int) -> None:
        for fd in set(fds) & self._open:
            self._open.remove(fd)
            os.close(fd)

    def close(self) -> None:
        self.shut(self.read, self.write)


@pytest.fixture
def source() -> Iterator[Pipe]:
    with closing(Pipe()) as pipe:
        yield pipe


@pytest.fixture
def target() -> Iterator[Pipe]:
    with closing(Pipe()) as pipe:
        yield pipe


async def send(fd: int, data: bytes) -> None:
    os.set_blocking(fd, False)
    rest = memoryview(data)
    while rest:
        await trio.lowlevel.wait_writable(fd)
        rest = rest[os.write(fd, rest) :]


async def drain(fd: int, size: int) -> bytes:
    os.set_blocking(fd, False)
    data = bytearray()
    while len(data) < size:
        await trio.lowlevel.wait_readable(fd)
        if not (piece := os.read(fd, size - len(data))):
            break
        data += piece
    return bytes(data)


async def test_bytes_arrive_in_order_and_are_counted(source: Pipe, target: Pipe) -> None:
    data = os.urandom(3 << 20)
    counts: list[int] = []

    async def feed() -> None:
        await send(source.write, data)
        source.shut(source.write)

    async def copy() -> None:
        counts.append(await splice.copy(source.read, target.write))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed)
            nursery.start_soon(copy)
            assert await drain(target.read, len(data)) == data
    assert counts == [len(data)]


async def test_the_end_of_the_source_ends_the_copy(source: Pipe, target: Pipe) -> None:
    source.shut(source.write)
    assert await splice.copy(source.read, target.write) == 0


async def test_a_reader_gone_for_good_ends_the_copy_and_leaves_the_rest(source: Pipe, target: Pipe) -> None:
    target.shut(target.read)
    os.write(source.write, b"for nobody")
    assert await splice.copy(source.read, target.write) == 0
    assert os.read(source.read, 100) == b"for nobody"


async def test_a_fifo_without_a_reader_holds_what_it_gets(source: Pipe, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    fifo = os.open(tmp_path / "log", os.O_RDWR)
    try:
        os.write(source.write, b"first\n")
        source.shut(source.write)
        assert await splice.copy(source.read, fifo) == 6
        late = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
        assert os.read(late, 100) == b"first\n"
        os.close(late)
    finally:
        os.close(fifo)


async def test_a_full_target_blocks_the_writer_without_spinning(
    source: Pipe, target: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    original = os.splice

    def counted(src: int, dst: int, count: int, *, flags: int) -> int:
        nonlocal calls
        calls += 1
        return original(src, dst, count, flags=flags)

    monkeypatch.setattr(os, "splice", counted)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(splice.copy, source.read, target.write)
        nursery.start_soon(send, source.write, bytes(4 << 20))
        await trio.testing.wait_all_tasks_blocked(0.02)
        before = calls
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert calls == before
        nursery.cancel_scope.cancel()


async def test_cancelling_loses_no_byte(source: Pipe, target: Pipe) -> None:
    data = os.urandom(1 << 20)
    received = bytearray()
    with trio.fail_after(20):
        async with trio.open_nursery() as feeder:
            feeder.start_soon(send, source.write, data)
            while len(received) < len(data):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(splice.copy, source.read, target.write)
                    received += await drain(target.read, min(50_000, len(data) - len(received)))
                    nursery.cancel_scope.cancel()
    assert bytes(received) == data


async def test_a_file_opened_for_appending_gets_everything(source: Pipe, tmp_path: Path) -> None:
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(source.write, b"one\n")
        source.shut(source.write)
        assert await splice.copy(source.read, log) == 4
    finally:
        os.close(log)
    assert (tmp_path / "log").read_bytes() == b"one\n"


async def test_a_terminals_output_is_copied_until_its_other_side_is_closed(target: Pipe) -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(splice.copy, master, target.write)
            os.write(slave, b"prompt$ ")
            with trio.fail_after(10):
                assert await drain(target.read, 8) == b"prompt$ "
                os.close(slave)
                slave = -1
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)


async def test_more_input_than_a_terminal_takes_at_once_arrives_whole(source: Pipe) -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    data = os.urandom(200_000)
    try:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(splice.copy, source.read, master)
                nursery.start_soon(send, source.write, data)
                assert await drain(slave, len(data)) == data
                nursery.cancel_scope.cancel()
    finally:
        os.close(master)
        os.close(slave)
