"""The connection lock on real connections: what is held, what is not, and what comes out at release."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import trio
from tests.integration.kernel.conftest import Network, Pair

from zeropod.kernel import connection_lock, nftables
from zeropod.kernel.connection_lock import ConnectionLock
from zeropod.kernel.connection_table import Connection

FAMILIES = [socket.AF_INET, socket.AF_INET6]
RETRANSMISSION = 0.2  # seconds: the least the kernel waits before it sends a segment again


@pytest.fixture
def lock(network: Network) -> Iterator[ConnectionLock]:
    with closing(ConnectionLock(network.path, "zeropod-test")) as lock:
        yield lock


def connection(pair: Pair) -> Connection:
    return Connection(pair.server.getsockname()[:2], pair.server.getpeername()[:2])


def holds(lock: ConnectionLock) -> bool:
    """Whether packets are held, rather than dropped to be sent again. Certain after lock()."""
    return lock._verdicts[0] != nftables.drop()


def nothing_arrives(sock: socket.socket) -> bool:
    """Delivery over loopback is synchronous: what may pass is there when send() returns."""
    sock.setblocking(False)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(5)
    return False


@pytest.mark.parametrize("family", FAMILIES)
def test_data_of_both_directions_waits_and_arrives_at_once_at_the_release(
    network: Network, lock: ConnectionLock, family: socket.AddressFamily
) -> None:
    pair = network.pair(family)
    lock.lock([connection(pair)])
    if not holds(lock):
        pytest.skip("this kernel has no NFQUEUE")
    sent = time.monotonic()
    pair.client.sendall(b"question")
    pair.server.sendall(b"answer")
    assert nothing_arrives(pair.server)
    assert nothing_arrives(pair.client)
    lock.release()
    assert not nothing_arrives(pair.server)
    assert not nothing_arrives(pair.client)
    assert (pair.server.recv(100), pair.client.recv(100)) == (b"question", b"answer")
    assert time.monotonic() - sent < RETRANSMISSION


def test_everything_held_arrives_in_order(network: Network, lock: ConnectionLock) -> None:
    pair = network.pair()
    lock.lock([connection(pair)])
    pair.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for number in range(9):
        pair.client.sendall(b"%d" % number)
    lock.release()
    received = b""
    while len(received) < 9:
        received += pair.server.recv(100)
    assert received == b"012345678"


def test_other_connections_ports_and_new_connections_do_not_notice(network: Network, lock: ConnectionLock) -> None:
    pair = network.pair()
    same_port, other_port = network.join(pair.listener), network.pair()
    lock.lock([connection(pair)])
    for free in (same_port, other_port, network.join(pair.listener)):
        free.client.sendall(b"question")
        assert free.server.recv(100) == b"question"
        free.server.sendall(b"answer")
        assert free.client.recv(100) == b"answer"


def test_no_reset_leaves_while_the_socket_is_away(network: Network, lock: ConnectionLock) -> None:
    pair = network.pair()
    lock.lock([connection(pair)])
    # Closed with unread data it sends a reset, as a killed process does.
    pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    pair.server.close()
    pair.client.sendall(b"still there?")
    assert nothing_arrives(pair.client)
    pair.client.sendall(b"yes")


async def test_held_packets_tell_whose_they_are_and_whether_there_is_data(
    network: Network, lock: ConnectionLock
) -> None:
    one, other = network.pair(), network.pair(socket.AF_INET6)
    lock.lock([connection(one), connection(other)])
    if not holds(lock):
        pytest.skip("this kernel has no NFQUEUE")
    other.client.sendall(b"data")
    one.server.sendall(b"data")
    with trio.fail_after(5):
        held = await lock.receive()
    assert [(packet.connection, packet.incoming, packet.carries_data) for packet in held] == [
        (connection(other), True, True),
        (connection(one), False, True),
    ]


async def test_an_end_of_the_stream_is_held_and_is_no_data(network: Network, lock: ConnectionLock) -> None:
    pair = network.pair()
    lock.lock([connection(pair)])
    if not holds(lock):
        pytest.skip("this kernel has no NFQUEUE")
    pair.client.shutdown(socket.SHUT_WR)
    with trio.fail_after(5):
        [held] = await lock.receive()
    assert not held.carries_data
    assert nothing_arrives(pair.server)
    lock.release()
    assert pair.server.recv(1) == b""


async def test_releasing_one_connection_keeps_the_others_packets_and_their_news(
    network: Network, lock: ConnectionLock
) -> None:
    one, other = network.pair(), network.pair()
    lock.lock([connection(one)])
    lock.lock([connection(other)])
    if not holds(lock):
        pytest.skip("this kernel has no NFQUEUE")
    one.client.sendall(b"one")
    other.client.sendall(b"other")
    lock.release([connection(one)])
    assert one.server.recv(100) == b"one"
    assert nothing_arrives(other.server)
    with trio.fail_after(5):
        [held] = await lock.receive()
    assert held.connection == connection(other)
    lock.release()
    assert other.server.recv(100) == b"other"


async def test_a_waiting_receiver_hears_what_a_release_has_read(network: Network, lock: ConnectionLock) -> None:
    one, other = network.pair(), network.pair()
    lock.lock([connection(one), connection(other)])
    if not holds(lock):
        pytest.skip("this kernel has no NFQUEUE")
    heard = []

    async def listen() -> None:
        heard.extend(await lock.receive())

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            other.client.sendall(b"data")
            lock.release([connection(one)])
    assert [held.connection for held in heard] == [connection(other)]


def test_a_lock_can_be_taken_again_and_a_release_repeated(network: Network, lock: ConnectionLock) -> None:
    pair = network.pair()
    for round_ in range(3):
        lock.lock([connection(pair)])
        lock.lock([connection(pair)])
        pair.client.sendall(b"%d" % round_)
        assert nothing_arrives(pair.server)
        lock.release()
        lock.release([connection(pair)])
        assert pair.server.recv(100) == b"%d" % round_
    lock.lock([])


def test_a_kernel_without_nfqueue_drops_and_the_data_comes_again(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_lock, "_bind_queue", lambda: None)
    pair = network.pair()
    with closing(ConnectionLock(network.path, "zeropod-test")) as lock:
        lock.lock([connection(pair)])
        assert not holds(lock)
        pair.client.sendall(b"question")
        assert nothing_arrives(pair.server)
        lock.release()
        assert pair.server.recv(100) == b"question"


def test_a_table_of_that_name_is_an_error_and_stays(network: Network) -> None:
    pair = network.pair()
    with (
        closing(ConnectionLock(network.path, "zeropod-test")) as one,
        closing(ConnectionLock(network.path, "zeropod-test")) as other,
    ):
        one.lock([connection(pair)])
        with pytest.raises(PermissionError):
            other.lock([connection(pair)])
        pair.client.sendall(b"question")
        assert nothing_arrives(pair.server)


def test_two_locks_in_one_namespace_have_queues_of_their_own(network: Network) -> None:
    one_pair, other_pair = network.pair(), network.pair()
    with (
        closing(ConnectionLock(network.path, "zeropod-1")) as one,
        closing(ConnectionLock(network.path, "zeropod-2")) as other,
    ):
        one.lock([connection(one_pair)])
        other.lock([connection(other_pair)])
        other_pair.client.sendall(b"other")
        other.release()
        assert other_pair.server.recv(100) == b"other"


def test_a_process_that_dies_takes_its_lock_along(network: Network) -> None:
    pair = network.pair()
    code = """
import sys, time
from zeropod.kernel.connection_lock import ConnectionLock
from zeropod.kernel.connection_table import Connection
local, remote = int(sys.argv[2]), int(sys.argv[3])
lock = ConnectionLock(sys.argv[1], "zeropod-dies")
lock.lock([Connection(("127.0.0.1", local), ("127.0.0.1", remote))])
print(flush=True)
time.sleep(60)
"""
    ports = [str(pair.server.getsockname()[1]), str(pair.server.getpeername()[1])]
    with subprocess.Popen(
        [sys.executable, "-c", code, str(network.path), *ports],
        env={"PYTHONPATH": ":".join(entry for entry in sys.path if entry)},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pair.client.sendall(b"question")
        assert nothing_arrives(pair.server)
        os.kill(process.pid, signal.SIGKILL)
    # Dropped with the process, and sent again.
    assert pair.server.recv(100) == b"question"
