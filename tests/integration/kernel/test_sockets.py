"""Other processes' sockets: found, duplicated, handed over."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from tests.integration.kernel.conftest import Network

from zeropod.kernel import namespace, sockets
from zeropod.kernel.sock_diag import SockDiag, TcpState


@contextmanager
def holder(*held: socket.socket) -> Iterator[int]:
    """A process that has these sockets open and does nothing."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code],
        pass_fds=[sock.fileno() for sock in held],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def connections(network: Network) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    """Both ends of each connection in the namespace, in any state but listening."""
    with closing(SockDiag(network.path)) as diag:
        return [(sock.local, sock.remote) for sock in diag.tcp(frozenset(TcpState) - {TcpState.LISTEN})]


def test_a_processs_sockets_are_listed_with_descriptor_and_inode(network: Network) -> None:
    one, other = network.listen(), network.listen()
    with holder(one, other) as pid:
        assert set(sockets.sockets_of(pid)) == {(sock.fileno(), inode(sock)) for sock in (one, other)}


def test_a_duplicate_is_the_same_socket_and_outlives_its_process(network: Network) -> None:
    listener = network.listen()
    port, wanted = listener.getsockname()[1], inode(listener)
    with holder(listener) as pid:
        listener.close()
        found = sockets.duplicate([pid], {wanted})
    assert found.keys() == {wanted}
    with found[wanted] as held:
        assert sockets.is_listening(held)
        client = network.connect(port)
        with held.accept()[0] as accepted:
            assert accepted.getpeername() == client.getsockname()
            assert not sockets.is_listening(accepted)


def test_a_socket_that_two_processes_share_is_duplicated_once(network: Network) -> None:
    listener = network.listen()
    with holder(listener) as one, holder(listener) as other:
        found = sockets.duplicate([one, other], {inode(listener)})
    assert len(found) == 1
    found[inode(listener)].close()


def test_processes_and_sockets_that_are_gone_are_left_out(network: Network) -> None:
    listener = network.listen()
    with holder(listener) as gone:
        pass
    assert list(sockets.sockets_of(gone)) == []
    with holder(listener) as pid:
        found = sockets.duplicate([gone, pid], {inode(listener), 1})
    assert found.keys() == {inode(listener)}
    found[inode(listener)].close()


def test_waiting_connections_move_to_the_listener_that_takes_over(network: Network) -> None:
    namespace.set_sysctl(network.path, "net/ipv4/tcp_migrate_req", "1")
    held = network.listen()
    # The application ran as another user: the kernel compares.
    os.fchown(held.fileno(), 1000, 1000)
    port = held.getsockname()[1]
    clients = [network.connect(port) for _ in range(5)]
    for number, client in enumerate(clients):
        client.sendall(b"%d" % number)

    sockets.hand_over_ready(held)
    restored = network.own(network.run(socket.socket))
    restored.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    restored.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    restored.bind(("127.0.0.1", port))
    restored.listen()
    held.close()

    restored.settimeout(5)
    served = {}
    for _ in clients:
        accepted = network.own(restored.accept()[0])
        served[accepted.getpeername()] = accepted.recv(1)
    assert served == {client.getsockname(): b"%d" % number for number, client in enumerate(clients)}


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("unread", [b"", b"not read by the application"])
def test_a_connection_in_repair_vanishes_with_its_process_and_the_other_end_does_not_notice(
    network: Network, family: socket.AddressFamily, unread: bytes
) -> None:
    pair = network.pair(family)
    with holder(pair.server) as pid:
        [duplicate] = sockets.duplicate([pid], {inode(pair.server)}).values()
        pair.server.close()
        pair.client.sendall(unread)
        with duplicate:
            sockets.enter_repair(duplicate)
    # The process is dead, and both copies of the socket are closed.
    assert connections(network) == [(pair.client.getsockname()[:2], pair.client.getpeername()[:2])]
    pair.client.setblocking(False)
    with pytest.raises(BlockingIOError):
        pair.client.recv(1)


def test_what_was_in_repair_goes_on_after_it(network: Network) -> None:
    pair = network.pair()
    pair.client.sendall(b"question")
    sockets.enter_repair(pair.server)
    with pytest.raises(PermissionError):
        pair.server.recv(1)
    sockets.leave_repair(pair.server)
    assert pair.server.recv(100) == b"question"


def test_a_listener_has_no_repair_mode(network: Network) -> None:
    with pytest.raises(PermissionError):
        sockets.enter_repair(network.listen())
