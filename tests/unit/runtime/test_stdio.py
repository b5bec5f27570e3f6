"""A process's streams over real pipes, fifos and terminals; the tests are the process, and containerd."""

import array
import fcntl
import os
import pty
import socket
import stat
import struct
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from zeropod import paths
from zeropod.runtime import command
from zeropod.runtime.errors import StdioError
from zeropod.runtime.stdio import ProcessIO, Stdio, Streams, console_socket, receive_console

USER = 12345 if os.getuid() == 0 else os.getuid()
GROUP = 12345 if os.getuid() == 0 else os.getgid()


class Fifos:
    """containerd's side: fifos, and the descriptors that it has open on them."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._open: set[int] = set()

    def path(self, name: str) -> str:
        path = self._place / name
        if not path.exists():
            os.mkfifo(path)
        return str(path)

    def reader(self, name: str) -> int:
        return self._keep(os.open(self.path(name), os.O_RDONLY | os.O_NONBLOCK))

    def writer(self, name: str) -> int:
        return self._keep(os.open(self.path(name), os.O_WRONLY | os.O_NONBLOCK))

    def _keep(self, descriptor: int) -> int:
        self._open.add(descriptor)
        return descriptor

    def close(self, *descriptors: int) -> None:
        for descriptor in descriptors or list(self._open):
            self._open.discard(descriptor)
            os.close(descriptor)


@pytest.fixture
def fifos(tmp_path: Path) -> Iterator[Fifos]:
    fifos = Fifos(tmp_path)
    yield fifos
    fifos.close()


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """Every test closes what it has opened, and so does what is tested."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before


async def read(descriptor: int, size: int) -> bytes:
    data = b""
    os.set_blocking(descriptor, False)
    while len(data) < size:
        await trio.lowlevel.wait_readable(descriptor)
        part = os.read(descriptor, size - len(data))
        assert part, f"the end came after {data!r}"
        data += part
    return data


async def read_all(descriptor: int) -> bytes:
    data = b""
    os.set_blocking(descriptor, False)
    while True:
        await trio.lowlevel.wait_readable(descriptor)
        if not (part := os.read(descriptor, 1 << 16)):
            return data
        data += part


def opened(stdin: str = "", stdout: str = "", stderr: str = "") -> ProcessIO:
    io = ProcessIO(Stdio(stdin, stdout, stderr))
    io.open_pipes(USER, GROUP)
    return io


async def ended(io: ProcessIO) -> None:
    """The process ends; returns when its last byte has gone."""
    io.process_exited()
    await io.drained.wait()
    io.close()


def out(io: ProcessIO) -> int:
    assert io.streams.stdout is not None
    return io.streams.stdout


# Output


async def test_what_a_process_writes_reaches_containerds_fifos(fifos: Fifos, nursery: trio.Nursery) -> None:
    stdout, stderr = fifos.reader("out"), fifos.reader("err")
    io = opened(stdout=fifos.path("out"), stderr=fifos.path("err"))
    nursery.start_soon(io.copy)
    assert io.streams.stderr is not None
    os.write(out(io), b"hello")
    os.write(io.streams.stderr, b"oh no")
    assert await read(stdout, 5) == b"hello"
    assert await read(stderr, 5) == b"oh no"
    await ended(io)


async def test_a_fifo_can_be_given_as_a_uri(fifos: Fifos, nursery: trio.Nursery) -> None:
    reader = fifos.reader("out")
    io = opened(stdout="fifo://" + fifos.path("out"))
    nursery.start_soon(io.copy)
    os.write(out(io), b"hello")
    assert await read(reader, 5) == b"hello"
    await ended(io)


async def test_the_pipes_belong_to_the_user_of_the_process(fifos: Fifos) -> None:
    io = opened(stdin=fifos.path("in"), stdout=fifos.path("out"), stderr=fifos.path("err"))
    for stream in (io.streams.stdin, io.streams.stdout, io.streams.stderr):
        assert stream is not None
        status = os.fstat(stream)
        assert (status.st_uid, status.st_gid) == (USER, GROUP)
        assert not os.get_inheritable(stream)
    io.close()


async def test_nothing_is_lost_while_nobody_reads(fifos: Fifos, nursery: trio.Nursery) -> None:
    first = fifos.reader("out")
    io = opened(stdout=fifos.path("out"))
    nursery.start_soon(io.copy)
    os.write(out(io), b"one ")
    assert await read(first, 4) == b"one "
    fifos.close(first)
    os.write(out(io), b"two ")
    await wait_all_tasks_blocked()
    second = fifos.reader("out")
    os.write(out(io), b"three")
    assert await read(second, 9) == b"two three"
    await ended(io)


async def test_a_slow_reader_makes_the_writer_wait_and_gets_everything(fifos: Fifos, nursery: trio.Nursery) -> None:
    reader = fifos.reader("out")
    io = opened(stdout=fifos.path("out"))
    nursery.start_soon(io.copy)
    process = command.spawn(["/usr/bin/head", "-c", "5000000", "/dev/zero"], stdout=out(io))
    io.process_exited()
    await wait_all_tasks_blocked()
    data = await read_all(reader)
    assert len(data) == 5_000_000
    assert await command.wait(process) == 0
    await ended(io)


async def test_the_end_of_the_output_is_containerds_too(fifos: Fifos, nursery: trio.Nursery) -> None:
    reader = fifos.reader("out")
    io = opened(stdout=fifos.path("out"))
    nursery.start_soon(io.copy)
    os.write(out(io), b"bye")
    io.process_exited()
    assert await read_all(reader) == b"bye"
    io.close()


async def test_a_child_that_outlives_its_process_is_heard_to_its_end(fifos: Fifos, nursery: trio.Nursery) -> None:
    reader = fifos.reader("out")
    io = opened(stdout=fifos.path("out"))
    nursery.start_soon(io.copy)
    child = os.dup(out(io))
    io.process_exited()
    await wait_all_tasks_blocked()
    assert not io.drained.is_set()
    os.write(child, b"still here")
    os.close(child)
    assert await read_all(reader) == b"still here"
    await ended(io)


async def test_standard_output_and_error_in_one_file_keep_their_order(tmp_path: Path, nursery: trio.Nursery) -> None:
    target = f"file://{tmp_path}/both"
    io = opened(stdout=target, stderr=target)
    nursery.start_soon(io.copy)
    assert io.streams.stderr is not None
    for number in range(100):
        os.write(io.streams.stderr if number % 2 else out(io), f"{number}\n".encode())
    await ended(io)
    assert (tmp_path / "both").read_text().split() == [str(number) for number in range(100)]


async def test_a_file_is_made_with_its_folder_and_gets_more_at_its_end(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = tmp_path / "new" / "log"
    for text in (b"first\n", b"second\n"):
        io = opened(stdout=f"file://{path}")
        nursery.start_soon(io.copy)
        os.write(out(io), text)
        await ended(io)
    assert path.read_text() == "first\nsecond\n"
    assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0


async def test_what_nobody_asked_for_is_not_there() -> None:
    io = opened()
    assert io.streams == Streams(None, None, None)
    io.process_exited()
    assert io.drained.is_set()
    io.close()


@pytest.mark.parametrize("target", ["http://example.com/log", "npipe:////pipe"])
async def test_a_scheme_that_is_unknown_is_named(target: str) -> None:
    io = ProcessIO(Stdio(stdout=target))
    with pytest.raises(StdioError, match=f"cannot log to {target}: the scheme '.*' is none of fifo, file, binary"):
        io.open_pipes(USER, GROUP)
    io.close()


@pytest.mark.parametrize("asked", [Stdio(stdin="nothing"), Stdio(stdout="nothing"), Stdio(stderr="nothing")])
async def test_a_fifo_that_is_not_there_is_named(asked: Stdio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    io = ProcessIO(asked)
    with pytest.raises(StdioError, match="nothing: No such file or directory"):
        io.open_pipes(USER, GROUP)
    io.close()


# Input


async def test_what_containerd_writes_reaches_the_process(fifos: Fifos, nursery: trio.Nursery) -> None:
    said: list[None] = []
    io = opened(stdin=fifos.path("in"))
    keyboard = fifos.writer("in")

    async def copy() -> None:
        await io.copy(lambda: said.append(None))

    output = await held_open(io)
    nursery.start_soon(copy)
    await wait_all_tasks_blocked()
    assert said == []
    assert io.streams.stdin is not None
    os.write(keyboard, b"hello")
    assert await read(io.streams.stdin, 5) == b"hello"
    await wait_all_tasks_blocked()
    assert said
    os.close(output)
    io.close()


async def held_open(io: ProcessIO) -> int:
    """Gives a process without output one that is not at its end, so that the copying goes on."""
    reading, writing = os.pipe()
    null = os.open("/dev/null", os.O_WRONLY)
    io._keep(reading, null)
    io._copies.append((reading, null))
    return writing


@pytest.mark.parametrize("first", ["containerd", "shim"])
async def test_the_input_ends_when_both_containerd_and_its_request_say_so(
    fifos: Fifos, nursery: trio.Nursery, first: str
) -> None:
    io = opened(stdin=fifos.path("in"))
    keyboard, output = fifos.writer("in"), await held_open(io)
    nursery.start_soon(io.copy)
    assert io.streams.stdin is not None
    os.set_blocking(io.streams.stdin, False)
    os.write(keyboard, b"last words")
    for step in ("containerd", "shim") if first == "containerd" else ("shim", "containerd"):
        await wait_all_tasks_blocked()
        if step != first:
            assert await read(io.streams.stdin, 10) == b"last words"
            with pytest.raises(BlockingIOError):
                os.read(io.streams.stdin, 1)
        if step == "containerd":
            fifos.close(keyboard)
        else:
            io.close_stdin()
    assert await read_all(io.streams.stdin) == b""
    os.close(output)
    io.close()


async def test_a_containerd_that_restarts_is_no_end_of_the_input(fifos: Fifos, nursery: trio.Nursery) -> None:
    io = opened(stdin=fifos.path("in"))
    output = await held_open(io)
    nursery.start_soon(io.copy)
    assert io.streams.stdin is not None
    for text in (b"before", b"after "):
        keyboard = fifos.writer("in")
        os.write(keyboard, text)
        assert await read(io.streams.stdin, 6) == text
        fifos.close(keyboard)
        await wait_all_tasks_blocked()
    os.close(output)
    io.close()


async def test_closing_the_input_twice_or_of_a_process_that_has_none_is_no_error(fifos: Fifos) -> None:
    io = opened(stdin=fifos.path("in"))
    for _ in range(2):
        io.close_stdin()
    io.close()
    opened().close_stdin()


# Terminals


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # What the path of a socket has room for is less than pytest's directories take.
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setattr(paths, "CONSOLES", f"{directory}/z")
        yield f"{directory}/z"


def send(path: Path, *descriptors: int) -> None:
    """What runc does with a new terminal, and then it ends."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        socket.send_fds(client, [b"/dev/ptmx"], descriptors)


def test_a_terminal_is_received_from_runc(sockets: str) -> None:
    master, slave = pty.openpty()
    with console_socket() as (path, listener):
        assert stat.S_IMODE(os.stat(sockets).st_mode) == 0o700
        send(path, master)
        received = receive_console(listener)
    assert os.path.samestat(os.fstat(received), os.fstat(master))
    assert not os.get_inheritable(received)
    assert os.listdir(sockets) == []
    for descriptor in (master, slave, received):
        os.close(descriptor)


def test_a_runc_that_sends_nothing_is_an_error(sockets: str) -> None:
    with console_socket() as (_, listener), pytest.raises(StdioError, match="runc sent no terminal: EAGAIN"):
        receive_console(listener)


def test_a_runc_that_sends_no_descriptor_is_an_error(sockets: str) -> None:
    with console_socket() as (path, listener):
        send(path)
        with pytest.raises(StdioError, match="runc sent no terminal"):
            receive_console(listener)


async def test_a_terminal_is_connected_with_containerds_fifos(fifos: Fifos, nursery: trio.Nursery) -> None:
    screen = fifos.reader("out")
    io = ProcessIO(Stdio(fifos.path("in"), fifos.path("out"), "", terminal=True))
    master, slave = pty.openpty()
    io.attach_console(master)
    nursery.start_soon(io.copy)
    os.write(slave, b"$ ")
    assert await read(screen, 2) == b"$ "
    keyboard = fifos.writer("in")
    os.write(keyboard, b"ls\n")
    assert await read(screen, 4) == b"ls\r\n"
    assert os.read(slave, 100) == b"ls\n"
    os.close(slave)
    await ended(io)


async def test_a_terminal_has_the_size_that_it_is_given(fifos: Fifos) -> None:
    io = ProcessIO(Stdio("", fifos.path("out"), "", terminal=True))
    master, slave = pty.openpty()
    io.attach_console(master)
    io.resize(width=132, height=43)
    size = fcntl.ioctl(slave, termios.TIOCGWINSZ, bytes(8))
    assert struct.unpack("HHHH", size)[:2] == (43, 132)
    os.close(slave)
    io.close()


def test_a_process_without_a_terminal_has_no_size() -> None:
    ProcessIO(Stdio()).resize(80, 25)


def test_only_one_terminal_is_taken_from_runc(sockets: str) -> None:
    ends = array.array("i", os.pipe())
    with console_socket() as (path, listener):
        send(path, ends[0])
        received = receive_console(listener)
    os.write(ends[1], b"x")
    assert os.read(received, 1) == b"x"
    for descriptor in (*ends, received):
        os.close(descriptor)
