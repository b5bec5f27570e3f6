"""Live sockets of a real application that stands still: what wakes it, and that it then finds what came meanwhile."""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import trio
from tests.integration.kernel.conftest import LOOPBACK, Network
from trio.testing import wait_all_tasks_blocked

from zeropod.activator.live import Arrived, LiveSockets
from zeropod.kernel import sockets
from zeropod.kernel.sock_diag import SockDiag

FAMILIES = [socket.AF_INET, socket.AF_INET6]
PORTS = {socket.AF_INET: 8004, socket.AF_INET6: 8006}
RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER: on, for no time at all
SECOND_SYN = 1.0
"""Seconds until the kernel sends it."""

# Answers each line with the line, and says on its standard output which connections have ended, and how.
ECHO = """
import asyncio, sys
async def serve(reader, writer):
    name = "?"
    try:
        while line := await reader.readline():
            name = line.decode().strip()
            writer.write(line)
        print("end of", name, flush=True)
    except ConnectionError:
        print("reset of", name, flush=True)
    writer.close()
async def main():
    await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=512)
    await asyncio.start_server(serve, "::1", int(sys.argv[2]), backlog=512)
    print("listening", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


class Application:
    def __init__(self, network: Network) -> None:
        self.network = network
        self._process = subprocess.Popen(
            ["nsenter", f"--net={network.path}", sys.executable, "-c", ECHO, *map(str, PORTS.values())],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.said() == "listening"

    def said(self) -> str:
        """The next line of its output."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def connect(self, family: socket.AddressFamily, name: str = "somebody") -> socket.socket:
        """A connection that the application knows of, by this name."""
        client = self.network.connect(PORTS[family], family)
        self.ask(client, name)
        return client

    def ask(self, client: socket.socket, line: str) -> None:
        client.sendall(line.encode() + b"\n")
        self.hear(client, line)

    def hear(self, client: socket.socket, line: str) -> None:
        client.settimeout(5)
        assert client.recv(100).decode().strip() == line

    @contextmanager
    def still(self) -> Iterator[LiveSockets]:
        """The application runs no instruction in here; its sockets are watched until it goes on."""
        pid = self._process.pid
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        own = {inode for _, inode in sockets.sockets_of(pid)}
        with SockDiag(self.network.path) as diag:
            live = LiveSockets.take([pid], [sock for sock in diag.tcp() if sock.inode in own])
        try:
            yield live
        finally:
            live.close()
            os.kill(pid, signal.SIGCONT)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def app(network: Network) -> Iterator[Application]:
    made = Application(network)
    try:
        yield made
    finally:
        made.end()


async def arrives(live: LiveSockets, act: Callable[[], object]) -> Arrived:
    """What the event says that `act` brings about, when nothing was there before it."""
    found: list[Arrived] = []

    async def wait() -> None:
        found.append(await live.event())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            assert not found
            act()
    return found[0]


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_connection_wakes_and_is_served_afterwards(app: Application, family: socket.AddressFamily) -> None:
    clients = []

    def connect() -> None:
        clients.append(app.network.connect(PORTS[family], family))
        clients[0].sendall(b"hello\n")

    with app.still() as live:
        assert (len(live.listeners), len(live.connections)) == (2, 0)
        assert await arrives(live, connect) is Arrived.CONNECTION
    app.hear(clients[0], "hello")


@pytest.mark.parametrize("family", FAMILIES)
async def test_data_wakes_and_is_answered_afterwards(app: Application, family: socket.AddressFamily) -> None:
    client = app.connect(family)
    with app.still() as live:
        assert len(live.connections) == 1
        assert await arrives(live, lambda: client.sendall(b"hello\n")) is Arrived.DATA
    app.hear(client, "hello")


@pytest.mark.parametrize("family", FAMILIES)
async def test_the_end_of_a_connection_wakes(app: Application, family: socket.AddressFamily) -> None:
    client = app.connect(family, "the client")
    with app.still() as live:
        assert await arrives(live, lambda: client.shutdown(socket.SHUT_WR)) is Arrived.DATA
    assert app.said() == "end of the client"
    assert client.recv(1) == b""


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_reset_wakes(app: Application, family: socket.AddressFamily) -> None:
    client = app.connect(family, "the client")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    with app.still() as live:
        assert await arrives(live, client.close) is Arrived.DATA
    assert app.said() == "reset of the client"


async def test_only_listeners_on_the_chosen_ports_wake(app: Application) -> None:
    with app.still() as live:
        client = app.network.connect(PORTS[socket.AF_INET])
        assert not live.ready({PORTS[socket.AF_INET6]})
        with trio.move_on_after(0.05) as scope:
            await live.event({PORTS[socket.AF_INET6]})
        assert scope.cancelled_caught
        assert await live.event({PORTS[socket.AF_INET]}) is Arrived.CONNECTION
    app.ask(client, "hello")


async def test_any_of_three_hundred_connections_wakes_time_and_again(app: Application) -> None:
    clients = [app.connect(FAMILIES[number % 2]) for number in range(300)]
    for number in (0, 150, 299):
        with app.still() as live:
            assert len(live.connections) == 300
            assert await arrives(live, lambda: clients[number].sendall(b"hello\n")) is Arrived.DATA  # noqa: B023
        app.hear(clients[number], "hello")
    for client in clients:
        app.ask(client, "still there")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("accepted", [True, False])
async def test_a_connect_that_finishes_or_fails_wakes(
    network: Network, family: socket.AddressFamily, accepted: bool
) -> None:
    # A queue that is full answers no SYN. The kernel takes one more connection than is said.
    full = network.own(network.run(lambda: socket.create_server((LOOPBACK[family], 0), family=family, backlog=0)))
    network.connect(full.getsockname()[1], family)
    connecting = network.own(network.run(lambda: socket.socket(family)))
    connecting.setblocking(False)
    assert connecting.connect_ex(full.getsockname()) == errno.EINPROGRESS
    with SockDiag(network.path) as diag:
        mine = [sock for sock in diag.tcp() if sock.inode == os.fstat(connecting.fileno()).st_ino]
    live = LiveSockets.take([os.getpid()], mine)
    started = trio.current_time()
    assert await arrives(live, lambda: full.accept()[0].close() if accepted else full.close()) is Arrived.DATA
    assert trio.current_time() - started > SECOND_SYN / 2
    live.close()
    assert connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == (0 if accepted else errno.ECONNREFUSED)


async def test_a_peer_that_makes_room_wakes_whoever_could_not_write(network: Network) -> None:
    pair = network.pair()
    pair.server.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            pair.server.send(bytes(65536))
    with SockDiag(network.path) as diag:
        mine = [sock for sock in diag.tcp() if sock.inode == os.fstat(pair.server.fileno()).st_ino]
    live = LiveSockets.take([os.getpid()], mine)
    pair.client.settimeout(0.1)

    def read_all() -> None:
        with suppress(TimeoutError):
            while True:
                pair.client.recv(65536)

    assert await arrives(live, read_all) is Arrived.DATA
    live.close()
    pair.server.send(b"more")
