"""Live sockets of an application that does nothing: real ones on the loopback, duplicated out of this very process.

Delivery over the loopback is synchronous: what was sent has arrived when the call returns.
"""

import errno
import os
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from zeropod.activator.live import Arrived, LiveSockets
from zeropod.kernel import sockets
from zeropod.kernel.sock_diag import TcpSocket, TcpState

RESET = b"\1\0\0\0\0\0\0\0"
"""SO_LINGER: on, for no time at all."""


def row(sock: socket.socket, state: TcpState) -> TcpSocket:
    """What sock_diag says of a socket, as far as it matters here."""
    nowhere = ("0.0.0.0", 0)
    return TcpSocket(sock.family, state, nowhere, nowhere, os.fstat(sock.fileno()).st_ino, 0, 0, 0)


class Application:
    """An application's sockets, the clients' ends of its connections, and the duplicates."""

    def __init__(self, owned: ExitStack) -> None:
        self._own = owned.enter_context
        self._owned = owned
        self.rows: list[TcpSocket] = []

    def listen(self) -> socket.socket:
        listener = self._own(socket.create_server(("127.0.0.1", 0)))
        self.rows.append(row(listener, TcpState.LISTEN))
        return listener

    def connect(self, listener: socket.socket) -> socket.socket:
        return self._own(socket.create_connection(listener.getsockname()))

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """The application's end of an established connection, and the other end."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = self.connect(listener)
            server = self._own(listener.accept()[0])
        self.rows.append(row(server, TcpState.ESTABLISHED))
        return server, client

    def live(self) -> LiveSockets:
        live = LiveSockets.take([os.getpid()], self.rows)
        self._owned.callback(live.close)
        return live


@pytest.fixture
def app() -> Iterator[Application]:
    with ExitStack() as owned:
        yield Application(owned)


def port(listener: socket.socket) -> int:
    number: int = listener.getsockname()[1]
    return number


def fill(sock: socket.socket) -> None:
    """Sends until nothing more fits."""
    sock.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


class Waiting:
    """A task that waits for the event."""

    def __init__(self, live: LiveSockets, nursery: trio.Nursery, ports: Iterable[int] = ()) -> None:
        self._over = trio.Event()
        self.arrived: Arrived | None = None
        nursery.start_soon(self._wait, live, frozenset(ports))

    async def _wait(self, live: LiveSockets, ports: frozenset[int]) -> None:
        self.arrived = await live.event(ports)
        self._over.set()

    async def result(self) -> Arrived | None:
        with trio.fail_after(5):
            await self._over.wait()
        return self.arrived


async def test_nothing_ever_arrives_where_there_are_no_sockets(nursery: trio.Nursery) -> None:
    live = LiveSockets()
    assert not live
    assert not live.ready()
    waiting = Waiting(live, nursery)
    await wait_all_tasks_blocked()
    assert waiting.arrived is None
    live.close()


def test_a_socket_that_is_not_there_is_left_out(app: Application) -> None:
    with socket.socket() as gone:
        app.rows.append(row(gone, TcpState.ESTABLISHED))
    assert not app.live()


def test_listeners_and_connections_are_told_apart(app: Application) -> None:
    listener, (server, client) = app.listen(), app.pair()
    live = app.live()
    assert live
    assert [sock.getsockname() for sock in live.listeners] == [listener.getsockname()]
    assert [sock.getpeername() for sock in live.connections] == [client.getsockname()]
    assert not live.ready()
    assert server.getpeername() == client.getsockname()


async def test_a_new_connection_ends_the_wait_and_stays_in_the_queue(app: Application, nursery: trio.Nursery) -> None:
    app.listen()
    listener = app.listen()
    waiting = Waiting(live := app.live(), nursery)
    await wait_all_tasks_blocked()
    assert waiting.arrived is None
    client = app.connect(listener)
    assert await waiting.result() is Arrived.CONNECTION
    assert live.ready()
    live.close()
    with listener.accept()[0] as accepted:
        assert accepted.getpeername() == client.getsockname()


async def test_data_ends_the_wait_and_stays_unread(app: Application, nursery: trio.Nursery) -> None:
    app.pair()
    server, client = app.pair()
    waiting = Waiting(live := app.live(), nursery)
    await wait_all_tasks_blocked()
    client.sendall(b"hello")
    assert await waiting.result() is Arrived.DATA
    live.close()
    assert server.recv(10) == b"hello"


def send_urgent(client: socket.socket) -> None:
    client.send(b"!", socket.MSG_OOB)


def finish(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()


@pytest.mark.parametrize("act", [send_urgent, finish, reset])
async def test_an_urgent_byte_the_end_of_the_stream_and_a_reset_are_data(
    app: Application, nursery: trio.Nursery, act: Callable[[socket.socket], None]
) -> None:
    _, client = app.pair()
    waiting = Waiting(app.live(), nursery)
    await wait_all_tasks_blocked()
    act(client)
    assert await waiting.result() is Arrived.DATA


async def test_what_came_before_the_wait_counts(app: Application) -> None:
    listener, (_, client) = app.listen(), app.pair()
    app.connect(listener)
    live = app.live()
    assert live.ready()
    with trio.fail_after(5):
        assert await live.event() is Arrived.CONNECTION
        client.sendall(b"hello")
        # Both are there now, and data is the surer sign.
        assert await live.event() is Arrived.DATA


async def test_only_connections_to_the_chosen_ports_count_but_all_data_does(
    app: Application, nursery: trio.Nursery
) -> None:
    chosen, other, (_, client) = app.listen(), app.listen(), app.pair()
    live = app.live()
    waiting = Waiting(live, nursery, {port(chosen)})
    app.connect(other)
    await wait_all_tasks_blocked()
    assert waiting.arrived is None
    assert not live.ready({port(chosen)})
    client.sendall(b"hello")
    assert await waiting.result() is Arrived.DATA


async def test_the_choice_of_ports_is_each_wait_s_own(app: Application) -> None:
    chosen, other = app.listen(), app.listen()
    live = app.live()
    app.connect(other)
    assert not live.ready({port(chosen)})
    assert live.ready({port(other)})
    with trio.fail_after(5):
        assert await live.event() is Arrived.CONNECTION
    app.connect(chosen)
    with trio.fail_after(5):
        assert await live.event({port(chosen)}) is Arrived.CONNECTION


def test_a_connect_that_is_under_way_is_nothing_yet(app: Application) -> None:
    # A queue that is full answers no SYN. The kernel takes one more than is said.
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    with full, app.connect(full), socket.socket() as connecting:
        connecting.setblocking(False)
        assert connecting.connect_ex(full.getsockname()) == errno.EINPROGRESS
        app.rows.append(row(connecting, TcpState.SYN_SENT))
        assert not app.live().ready()


def test_a_connect_that_finished_before_it_was_watched_is_data(app: Application) -> None:
    server, _ = app.pair()
    app.rows = [row(server, TcpState.SYN_SENT)]
    assert app.live().ready()


async def test_room_to_write_is_data_only_where_there_was_none(app: Application, nursery: trio.Nursery) -> None:
    server, client = app.pair()
    fill(server)
    live = app.live()
    assert not live.ready()
    waiting = Waiting(live, nursery)
    await wait_all_tasks_blocked()
    assert waiting.arrived is None
    client.settimeout(5)
    while not live.ready():
        client.recv(65536)
    assert await waiting.result() is Arrived.DATA


async def test_one_wait_watches_hundreds_of_connections(app: Application, nursery: trio.Nursery) -> None:
    pairs = [app.pair() for _ in range(300)]
    live = app.live()
    assert len(live.connections) == 300
    before = trio.lowlevel.current_statistics().tasks_living
    waiting = Waiting(live, nursery)
    await wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == before + 1
    pairs[217][1].sendall(b"hello")
    assert await waiting.result() is Arrived.DATA
    live.close()


def test_closing_leaves_the_application_its_connections_and_may_be_repeated(app: Application) -> None:
    listener, (server, client) = app.listen(), app.pair()
    before = descriptors()
    live = app.live()
    assert len(descriptors() - before) == 3  # two duplicates and the epoll set
    live.close()
    live.close()
    assert not live
    assert not live.ready()
    assert descriptors() == before
    client.sendall(b"hello")
    assert server.recv(10) == b"hello"
    with app.connect(listener), listener.accept()[0]:
        pass


def test_a_close_by_the_application_is_a_close_once_the_duplicates_are_gone(app: Application) -> None:
    server, client = app.pair()
    live = app.live()
    client.settimeout(5)
    server.close()
    poll = select.poll()
    poll.register(client, select.POLLIN)
    assert not poll.poll(0)
    live.close()
    assert client.recv(1) == b""


def test_nothing_stays_open_when_the_sockets_cannot_be_watched(
    app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> select.epoll:
        raise OSError(errno.EMFILE, "Too many open files")

    app.pair()
    before = descriptors()
    monkeypatch.setattr(select, "epoll", refuse)
    with pytest.raises(OSError, match="Too many"):
        LiveSockets.take([os.getpid()], app.rows)
    assert descriptors() == before


def test_the_kernel_s_refusal_to_duplicate_comes_out(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pids: object, inodes: object) -> dict[int, socket.socket]:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    app.pair()
    monkeypatch.setattr(sockets, "duplicate", refuse)
    with pytest.raises(PermissionError):
        LiveSockets.take([os.getpid()], app.rows)


def test_a_connection_is_quiet_until_something_has_arrived_on_it(app: Application) -> None:
    (_, talking), _ = app.pair(), app.pair()
    live = app.live()
    assert len(live.quiet()) == 2
    talking.sendall(b"x")
    assert [connection.getpeername() for connection in live.quiet()] != [talking.getsockname()]
    assert len(live.quiet()) == 1
