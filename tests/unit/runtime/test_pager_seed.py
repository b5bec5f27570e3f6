"""The process that pagers are forked from: what it hands on, and what there is when it or a pager has ended."""

import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from zeropod.runtime.pagemap import Image, Runs
from zeropod.runtime.pager import child, seed
from zeropod.runtime.pager.child import Inheritance
from zeropod.runtime.pager.files import PagesFile
from zeropod.runtime.pager.service import Service

MANY = 600
"""Descriptors, more than fit into two messages."""
WITHIN = 5.0
"""Seconds."""


def no_child_is_left() -> bool:
    """Reap those that have ended."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def tell(inheritance: Inheritance, control: socket.socket) -> NoReturn:
    """Instead of a pager: report what has arrived, and wait for the end of the socket."""
    guards = [(number, os.fstat(guard).st_ino) for number, guard in inheritance.guards.items()]
    files = [os.pread(file, 100, 0) for file in inheritance.files]
    runs = inheritance.image.processes[7]
    listens = inheritance.listener and inheritance.listener.getsockname()
    text = repr((guards, files, os.pread(inheritance.journal, 100, 0), list(runs.starts), listens))
    control.sendall(text.encode() + b"\n")
    control.recv(1)
    os._exit(0)


@pytest.fixture(autouse=True)
def _own_seed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(child, "become", tell)
    assert not seed._orders
    yield
    while seed._orders:
        seed._orders.pop().close()
    until(no_child_is_left)


@pytest.fixture
def inheritance(tmp_path: Path) -> Inheritance:
    made = []
    for name in ("pages-1", "pages-2", "journal"):
        (tmp_path / name).write_text(name)
        made.append(PagesFile.open(tmp_path / name))
    runs = Runs()
    runs.append(4096, 8192, 0, 0, True)
    files = tuple(file.descriptor for file in made[:2])
    return Inheritance(Image({7: runs}, ()), files, made[2].descriptor, (), None, {}, Service())


def start(inheritance: Inheritance) -> tuple[int, int, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.settimeout(WITHIN)
    with theirs:
        try:
            pid, handle = seed.fork(inheritance, theirs)
        except OSError:
            ours.close()
            raise
    return pid, handle, ours


def told(control: socket.socket) -> object:
    with control.makefile() as lines:
        return eval(lines.readline())


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def seed_of(pager: int) -> int:
    return int(Path(f"/proc/{pager}/stat").read_text().rpartition(")")[2].split()[1])


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def ended(pid: int) -> bool:
    """Whether it has ended; a child of this process is a zombie then."""
    return gone(pid) or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_pager_has_what_it_is_given_however_much_that_is(inheritance: Inheritance, tmp_path: Path) -> None:
    guards: dict[int, int] = {}
    for number in range(MANY):
        guards[number] = os.memfd_create(f"guard-{number}", os.MFD_CLOEXEC)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "listener"))
        given = Inheritance(
            inheritance.image, inheritance.files, inheritance.journal, (), listener, guards, inheritance.service
        )
        pid, handle, control = start(given)
        inodes = [(number, os.fstat(guard).st_ino) for number, guard in guards.items()]
        assert told(control) == (inodes, [b"pages-1", b"pages-2"], b"journal", [4096], str(tmp_path / "listener"))
    control.close()
    until(lambda: gone(pid))
    for descriptor in (handle, *guards.values()):
        os.close(descriptor)


def test_pagers_come_from_one_process_and_leave_no_zombies(inheritance: Inheritance) -> None:
    pagers = [start(inheritance) for _ in range(3)]
    assert len({seed_of(pid) for pid, _, _ in pagers}) == 1
    assert seed_of(pagers[0][0]) != os.getpid()
    assert Path(f"/proc/{seed_of(pagers[0][0])}/comm").read_text() == f"{seed.NAME}\n"
    for _, handle, control in pagers:
        told(control)
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        control.close()
        os.close(handle)
    until(lambda: all(gone(pid) for pid, _, _ in pagers))


def test_without_it_another_one_is_made(inheritance: Inheritance) -> None:
    first, handle, control = start(inheritance)
    former = seed_of(first)
    os.kill(former, signal.SIGKILL)
    until(lambda: ended(former))
    told(control)
    second, other, more = start(inheritance)
    told(more)
    assert seed_of(second) != former
    assert not gone(first), "pagers do not end with it"
    control.close()
    more.close()
    until(lambda: gone(second))
    for descriptor in (handle, other):
        os.close(descriptor)


def test_it_ends_with_the_process_that_it_was_forked_from(inheritance: Inheritance) -> None:
    pid, handle, control = start(inheritance)
    told(control)
    own = seed_of(pid)
    seed._orders.pop().close()
    until(lambda: ended(own))
    control.close()
    os.close(handle)


@pytest.mark.parametrize("always", [False, True])
def test_an_order_that_is_not_taken_goes_to_another_one_and_then_fails(
    inheritance: Inheritance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, always: bool
) -> None:
    loads, failed = pickle.loads, tmp_path / "failed"

    def fail(text: bytes) -> object:
        if always or not failed.exists():
            failed.touch()
            raise MemoryError
        return loads(text)

    with monkeypatch.context() as patch:
        patch.setattr("zeropod.runtime.pager.seed.pickle.loads", fail)
        if always:
            with pytest.raises(OSError, match=r"has ended|Connection reset"):
                start(inheritance)
            patch.undo()
        pid, handle, control = start(inheritance)
    assert failed.exists()
    assert told(control)
    control.close()
    until(lambda: gone(pid))
    os.close(handle)
