"""Whose packet is whose, among the sleeping containers of a pod; the lock in the kernel is a fake."""

from collections.abc import Iterable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from zeropod.activator import established as module
from zeropod.activator.established import EstablishedConnections
from zeropod.kernel.connection_lock import Held
from zeropod.kernel.connection_table import Connection
from zeropod.kernel.sock_diag import TcpSocket, TcpState


class FakeLock:
    """Stands in for the lock of one pod; `arrive` is the kernel's part."""

    made: list["FakeLock"]

    def __init__(self, netns: str, table: str) -> None:
        self.netns = netns
        self.locked: set[Connection] = set()
        self.closed = False
        self.refuses = False
        self._send, self._receive = trio.open_memory_channel[list[Held]](10)
        self.made.append(self)

    def lock(self, connections: Iterable[Connection]) -> None:
        self.locked |= set(connections)

    def release(self, connections: Iterable[Connection]) -> None:
        self.locked -= set(connections)

    async def receive(self) -> list[Held]:
        return await self._receive.receive()

    def arrive(self, *connections: Connection) -> None:
        self._send.send_nowait([packet(connection) for connection in connections])

    def close(self) -> None:
        self.closed = True
        if self.refuses:
            raise OSError("the namespace is gone")


def sock(number: int) -> TcpSocket:
    return TcpSocket(2, TcpState.ESTABLISHED, ("10.0.0.1", 80), ("10.0.0.2", number), number, 0, 0, 0)


def connection(number: int) -> Connection:
    return Connection(sock(number).local, sock(number).remote)


def packet(connection: Connection) -> Held:
    return Held(connection, incoming=True, carries_data=True)


class Receiving:
    """One container's wait for its packets."""

    def __init__(self, connections: EstablishedConnections, own: frozenset[Connection], nursery: trio.Nursery) -> None:
        self.got: list[Held] = []
        self.scope = trio.CancelScope()
        nursery.start_soon(self._receive, connections, own)

    async def _receive(self, connections: EstablishedConnections, own: frozenset[Connection]) -> None:
        with self.scope:
            while True:
                self.got.append(await connections.packet(own))


@pytest.fixture(autouse=True)
def locks(monkeypatch: pytest.MonkeyPatch) -> list[FakeLock]:
    FakeLock.made = []
    monkeypatch.setattr(module, "ConnectionLock", FakeLock)
    return FakeLock.made


@pytest.fixture
def connections() -> EstablishedConnections:
    return EstablishedConnections("/run/netns/pod")


async def test_without_connections_the_kernel_is_left_alone(
    connections: EstablishedConnections, locks: list[FakeLock], nursery: trio.Nursery
) -> None:
    own = connections.lock([])
    assert own == frozenset()
    receiving = Receiving(connections, own, nursery)
    await wait_all_tasks_blocked()
    connections.release(own)
    connections.close()
    assert (receiving.got, locks) == ([], [])


async def test_one_lock_is_opened_for_all_containers(
    connections: EstablishedConnections, locks: list[FakeLock]
) -> None:
    assert connections.lock([sock(1), sock(2)]) == {connection(1), connection(2)}
    connections.lock([sock(3)])
    [lock] = locks
    assert lock.netns == "/run/netns/pod"
    assert lock.locked == {connection(1), connection(2), connection(3)}


async def test_a_packet_finds_the_container_that_it_is_for(
    connections: EstablishedConnections, locks: list[FakeLock], nursery: trio.Nursery
) -> None:
    first = Receiving(connections, connections.lock([sock(1)]), nursery)
    second = Receiving(connections, connections.lock([sock(2)]), nursery)
    await wait_all_tasks_blocked()
    locks[0].arrive(connection(2))
    locks[0].arrive(connection(1), connection(2))
    await wait_all_tasks_blocked()
    assert first.got == [packet(connection(1))]
    assert second.got == [packet(connection(2))] * 2


async def test_a_packet_that_somebody_else_received_is_kept(
    connections: EstablishedConnections, locks: list[FakeLock], nursery: trio.Nursery
) -> None:
    own, others = connections.lock([sock(1)]), connections.lock([sock(2)])
    Receiving(connections, own, nursery)
    await wait_all_tasks_blocked()
    locks[0].arrive(connection(2))
    await wait_all_tasks_blocked()
    late = Receiving(connections, others, nursery)
    # The first has its turn until the next packet comes.
    locks[0].arrive(connection(1))
    await wait_all_tasks_blocked()
    assert late.got == [packet(connection(2))]


async def test_when_one_gives_up_another_takes_its_turn(
    connections: EstablishedConnections, locks: list[FakeLock], nursery: trio.Nursery
) -> None:
    first = Receiving(connections, connections.lock([sock(1)]), nursery)
    second = Receiving(connections, connections.lock([sock(2)]), nursery)
    await wait_all_tasks_blocked()
    first.scope.cancel()
    await wait_all_tasks_blocked()
    locks[0].arrive(connection(2))
    await wait_all_tasks_blocked()
    assert second.got == [packet(connection(2))]


async def test_released_connections_are_let_go_with_what_was_kept_for_them(
    connections: EstablishedConnections, locks: list[FakeLock], nursery: trio.Nursery
) -> None:
    own, others = connections.lock([sock(1)]), connections.lock([sock(2)])
    Receiving(connections, own, nursery)
    await wait_all_tasks_blocked()
    locks[0].arrive(connection(2))
    await wait_all_tasks_blocked()
    connections.release(others)
    assert locks[0].locked == {connection(1)}
    # It sleeps again: the old packet must not wake it.
    again = Receiving(connections, connections.lock([sock(2)]), nursery)
    locks[0].arrive(connection(1))
    await wait_all_tasks_blocked()
    assert again.got == []


async def test_the_end_of_a_namespace_that_is_gone_already_is_no_error(
    connections: EstablishedConnections, locks: list[FakeLock]
) -> None:
    connections.lock([sock(1)])
    locks[0].refuses = True
    connections.close()
    assert locks[0].closed
