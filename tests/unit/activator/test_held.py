"""Listeners that are held for a container: real ones on the loopback, duplicated out of this very process."""

import os
import socket
from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from zeropod.activator.held import HeldListeners


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    """Two listeners of an application."""
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    yield made
    for listener in made:
        listener.close()


@pytest.fixture
def held(listeners: list[socket.socket]) -> Iterator[HeldListeners]:
    held = HeldListeners.take([os.getpid()], {os.fstat(listener.fileno()).st_ino for listener in listeners})
    yield held
    held.close()


def connect(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname())


class Waiting:
    def __init__(self, held: HeldListeners, nursery: trio.Nursery, ports: frozenset[int] = frozenset()) -> None:
        self.over = trio.Event()
        nursery.start_soon(self._wait, held, ports)

    async def _wait(self, held: HeldListeners, ports: frozenset[int]) -> None:
        await held.connection(ports)
        self.over.set()


def port(listener: socket.socket) -> int:
    number: int = listener.getsockname()[1]
    return number


def test_nothing_is_held_at_first() -> None:
    held = HeldListeners()
    assert not held
    assert not held.waiting()
    held.prepare_hand_over()
    held.close()


def test_a_listener_that_is_not_there_is_not_held() -> None:
    assert not HeldListeners.take([os.getpid()], {2**40})


def test_a_connection_waits_though_the_application_is_gone(held: HeldListeners, listeners: list[socket.socket]) -> None:
    address = listeners[0].getsockname()
    for listener in listeners:
        listener.close()
    assert held
    assert not held.waiting()
    with socket.create_connection(address) as client:
        assert held.waiting()
        client.sendall(b"GET /")


async def test_any_of_the_listeners_tells_of_a_connection(
    held: HeldListeners, listeners: list[socket.socket], nursery: trio.Nursery
) -> None:
    waiting = Waiting(held, nursery)
    await wait_all_tasks_blocked()
    assert not waiting.over.is_set()
    with connect(listeners[1]):
        await waiting.over.wait()


async def test_a_connection_that_came_before_the_wait_counts(
    held: HeldListeners, listeners: list[socket.socket]
) -> None:
    with connect(listeners[0]):
        await held.connection()


async def test_only_connections_to_the_chosen_ports_count(
    held: HeldListeners, listeners: list[socket.socket], nursery: trio.Nursery
) -> None:
    chosen, other = listeners
    waiting = Waiting(held, nursery, frozenset({port(chosen)}))
    with connect(other):
        await wait_all_tasks_blocked()
        assert not waiting.over.is_set()
        assert held.waiting()
        with connect(chosen):
            await waiting.over.wait()


async def test_without_a_listener_nobody_ever_comes(nursery: trio.Nursery) -> None:
    waiting = Waiting(HeldListeners(), nursery)
    await wait_all_tasks_blocked()
    assert not waiting.over.is_set()


def test_whoever_waits_when_nobody_listens_any_more_is_reset(
    held: HeldListeners, listeners: list[socket.socket]
) -> None:
    with connect(listeners[0]) as client:
        for listener in listeners:
            listener.close()
        held.close()
        assert not held
        with pytest.raises(ConnectionResetError):
            client.recv(1)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives a socket to root")
def test_prepared_listeners_let_others_bind_beside_them(held: HeldListeners, listeners: list[socket.socket]) -> None:
    address = listeners[0].getsockname()
    for listener in listeners:
        listener.close()
    held.prepare_hand_over()
    with socket.socket() as restored:
        restored.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        restored.bind(address)
        restored.listen()
