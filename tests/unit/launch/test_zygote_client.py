"""How `start` asks a zygote for a shim, and how it knows in every case whether there is one."""

import multiprocessing
import os
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.launch import zygote_client
from zeropod.launch.zygote_client import Order, ZygoteError, ask, place

ORDER = Order(3, b"/bundle", [b"containerd-shim-zeropod-v2", b"-id", b"web", b"start"], {b"A": b"1=2", b"B": b""})
SECONDS = 30.0
"""For what must not hang."""

Behaviour = Callable[[socket.socket, int], None]


@pytest.fixture(autouse=True)
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        monkeypatch.setattr(zygote_client, "DIRECTORY", f"{made}/zeropod/zygotes")
        yield Path(made) / "zeropod" / "zygotes"


class Zygotes:
    """Begins threads that behave like zygotes, each of them once, for as many orders as it has behaviours."""

    def __init__(self, *lives: tuple[Behaviour, ...]) -> None:
        self.lives = list(lives)
        self.orders: list[Order] = []
        self.threads: list[threading.Thread] = []

    def begin(self, listener: int) -> None:
        own = socket.socket(fileno=os.dup(listener))
        thread = threading.Thread(target=self._live, args=(own, self.lives.pop(0)))
        self.threads.append(thread)
        thread.start()

    def _live(self, listener: socket.socket, behaviours: tuple[Behaviour, ...]) -> None:
        with listener:
            for behave in behaviours:
                with listener.accept()[0] as connection:
                    message, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 1)
                    self.orders.append(Order.decode(message))
                    if behave is die:
                        listener.close()
                    try:
                        behave(connection, descriptors[0])
                    finally:
                        os.close(descriptors[0])

    def join(self) -> None:
        for thread in self.threads:
            thread.join(SECONDS)
            assert not thread.is_alive()


def obey(connection: socket.socket, descriptor: int) -> None:
    connection.send(b"4711")


def die(connection: socket.socket, descriptor: int) -> None:
    pass


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        yield made


def asked(listener: socket.socket, zygotes: Zygotes, build: str = "build") -> int:
    try:
        return ask(build, listener.fileno(), ORDER, zygotes.begin)
    finally:
        zygotes.join()


texts = st.binary().map(lambda data: data.replace(b"\0", b""))
names = texts.map(lambda name: name.replace(b"=", b"")).filter(bool)


@given(st.integers(-1000, 1000), texts, st.lists(texts), st.dictionaries(names, texts))
def test_an_order_arrives_as_it_was_sent(
    oom_score: int, bundle: bytes, arguments: list[bytes], environment: dict[bytes, bytes]
) -> None:
    order = Order.decode(Order(oom_score, bundle, arguments, environment).encode())
    received = (order.oom_score, order.directory, list(order.arguments), order.environment)
    assert received == (oom_score, bundle, arguments, environment)


@pytest.mark.parametrize("message", [b"", b"x", b"1\0/\0x", b"x\0/\x000"])
def test_what_is_no_order_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Order.decode(message)


def test_the_first_who_asks_begins_a_zygote(listener: socket.socket) -> None:
    zygotes = Zygotes((obey,))
    assert asked(listener, zygotes) == 4711
    [order] = zygotes.orders
    assert (order.directory, list(order.arguments)) == (ORDER.directory, ORDER.arguments)


def test_a_zygote_that_is_there_is_asked(listener: socket.socket) -> None:
    zygotes = Zygotes((obey, obey))
    assert ask("build", listener.fileno(), ORDER, zygotes.begin) == 4711
    assert asked(listener, zygotes) == 4711
    assert len(zygotes.threads) == 1


def test_it_gets_the_very_socket(listener: socket.socket) -> None:
    seen: list[os.stat_result] = []

    def look(connection: socket.socket, descriptor: int) -> None:
        seen.append(os.fstat(descriptor))
        obey(connection, descriptor)

    asked(listener, Zygotes((look,)))
    assert os.path.samestat(seen[0], os.fstat(listener.fileno()))


def test_every_build_has_a_zygote_of_its_own(listener: socket.socket) -> None:
    zygotes = Zygotes((obey,), (obey,))
    assert [asked(listener, zygotes, build) for build in ("old", "new")] == [4711] * 2
    assert len(zygotes.threads) == 2


def test_the_place_is_the_same_for_whom_a_child_would_inherit_the_same() -> None:
    assert place("build") == place("build")
    before = os.umask(0o027)
    try:
        changed = place("build")
    finally:
        os.umask(before)
    assert changed != place("build")


def test_one_that_dies_when_it_is_asked_is_replaced(listener: socket.socket) -> None:
    zygotes = Zygotes((die,), (obey,))
    assert asked(listener, zygotes) == 4711
    assert len(zygotes.threads) == 2


def test_it_is_not_tried_for_ever(listener: socket.socket) -> None:
    with pytest.raises(ZygoteError, match="ended without an answer"):
        asked(listener, Zygotes((die,), (die,), (die,)))


def test_what_was_in_the_way_is_told(listener: socket.socket) -> None:
    with pytest.raises(ZygoteError, match="no room"):
        asked(listener, Zygotes((lambda connection, _: connection.sendall(b"no room"),)))


def test_the_socket_of_one_that_was_killed_is_replaced(listener: socket.socket, directory: Path) -> None:
    directory.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(place("build"))
    assert asked(listener, Zygotes((obey,))) == 4711


def test_who_does_not_answer_cannot_do_so_later(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote_client, "ANSWER", 0.01)
    given_up, late = threading.Event(), []

    def dawdle(connection: socket.socket, descriptor: int) -> None:
        assert given_up.wait(SECONDS)
        try:
            connection.send(b"4711")
        except BrokenPipeError as error:
            late.append(error)

    zygotes = Zygotes((dawdle,))
    with pytest.raises(ZygoteError, match="not answered"):
        ask("build", listener.fileno(), ORDER, zygotes.begin)
    given_up.set()
    zygotes.join()
    assert len(late) == 1


def test_two_at_once_begin_one(listener: socket.socket) -> None:
    """Processes, as every `start` is one: the lock is a process's."""
    begun, says = os.pipe()

    def start() -> int:
        zygotes = Zygotes((obey,) * 8)

        def begin(listener: int) -> None:
            os.write(says, b"x")
            zygotes.begin(listener)

        answer = ask("build", listener.fileno(), ORDER, begin)
        zygotes.join()
        return 0 if answer == 4711 else 1

    context = multiprocessing.get_context("fork")
    starts = [context.Process(target=lambda: sys.exit(start())) for _ in range(8)]
    for process in starts:
        process.start()
    os.close(says)
    try:
        for process in starts:
            process.join(SECONDS)
        assert [process.exitcode for process in starts] == [0] * 8
        assert os.read(begun, 8) == b"x"
    finally:
        os.close(begun)
        for process in starts:
            process.kill()


def test_one_that_cannot_be_begun_leaves_no_socket(listener: socket.socket, directory: Path) -> None:
    def fail(_: int) -> None:
        raise OSError("no more processes")

    with pytest.raises(ZygoteError, match="no more processes"):
        ask("build", listener.fileno(), ORDER, fail)
    assert [path.name for path in directory.iterdir()] == ["lock"]


def test_its_directory_and_its_socket_are_for_the_owner_alone(listener: socket.socket, directory: Path) -> None:
    asked(listener, Zygotes((obey,)))
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (directory.parent, directory, *directory.iterdir())}
    assert [path for path, mode in modes.items() if mode & 0o077] == []


def test_a_directory_that_others_could_change_is_not_trusted(listener: socket.socket, directory: Path) -> None:
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    with pytest.raises(ZygoteError, match="mode 0777"):
        asked(listener, Zygotes())


def test_a_lock_that_is_kept_is_not_waited_for_long(
    listener: socket.socket, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zygote_client, "LOCK_LOOKS", 2)
    directory.mkdir(parents=True)
    reader, writer = os.pipe()
    if (other := os.fork()) == 0:
        with suppress(BaseException):
            zygote_client.locked()
            os.write(writer, b"1")
            os.close(writer)
            threading.Event().wait(SECONDS)
        os._exit(0)
    os.close(writer)
    os.read(reader, 1)
    try:
        with pytest.raises(ZygoteError, match="another process holds"):
            asked(listener, Zygotes())
    finally:
        os.kill(other, 9)
        os.waitpid(other, 0)
        os.close(reader)
