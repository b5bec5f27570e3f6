"""sock_diag against real sockets."""

import os
import socket
import struct
from contextlib import closing

import pytest
from tests.integration.kernel.conftest import Network

from zeropod.kernel.sock_diag import SockDiag, TcpSocket, TcpState

FAMILIES = [socket.AF_INET, socket.AF_INET6]


def seen(sock: socket.socket, diag: SockDiag) -> TcpSocket:
    [found] = [found for found in diag.tcp({TcpState.ESTABLISHED}) if found.local == sock.getsockname()]
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_connection_is_seen_from_both_its_ends(network: Network, family: socket.AddressFamily) -> None:
    pair = network.pair(family)
    with closing(SockDiag(network.path)) as diag:
        found = {sock.local: sock for sock in diag.tcp({TcpState.ESTABLISHED})}
    server, client = pair.server.getsockname()[:2], pair.client.getsockname()[:2]
    assert found.keys() == {server, client}
    assert (found[server].remote, found[client].remote) == (client, server)
    assert found[server].family == family


@pytest.mark.parametrize("family", FAMILIES)
def test_one_that_is_gone_is_not_who_listens_there(network: Network, family: socket.AddressFamily) -> None:
    pair = network.pair(family)
    own, other = pair.server.getsockname()[:2], pair.client.getsockname()[:2]
    with closing(SockDiag(network.path)) as diag:
        found = diag.connection(own, other)
        assert found is not None
        assert found.inode == os.fstat(pair.server.fileno()).st_ino
        pair.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        pair.server.close()
        assert diag.connection(own, other) is None


def test_data_is_counted_and_waits_in_the_receive_queue(network: Network) -> None:
    pair = network.pair()
    pair.client.sendall(b"12345")
    with closing(SockDiag(network.path)) as diag:
        server = seen(pair.server, diag)
        assert (server.receive_queue, server.bytes_received) == (5, 5)
        assert server.last_data_received_ms is not None
        assert server.last_data_received_ms < 1000
        pair.server.recv(5)
        server = seen(pair.server, diag)
        assert (server.receive_queue, server.bytes_received) == (0, 5)


def test_a_listener_shows_its_accept_queue(network: Network) -> None:
    listener = network.listen()
    network.connect(listener.getsockname()[1])
    with closing(SockDiag(network.path)) as diag:
        [found] = diag.tcp({TcpState.LISTEN})
    assert (found.local, found.receive_queue) == (listener.getsockname(), 1)


def test_inodes_are_those_of_the_descriptors(network: Network) -> None:
    listener = network.listen()
    with closing(SockDiag(network.path)) as diag:
        [found] = diag.tcp({TcpState.LISTEN})
    assert found.inode == os.fstat(listener.fileno()).st_ino


def test_other_namespaces_and_other_states_are_not_shown(network: Network) -> None:
    with socket.create_server(("127.0.0.1", 0)), closing(SockDiag(network.path)) as diag:
        network.listen()
        assert diag.tcp({TcpState.ESTABLISHED}) == []
        assert len(diag.tcp()) == 1
        assert diag.tcp([]) == []


def test_a_thousand_sockets_come_in_one_answer(network: Network) -> None:
    for _ in range(1000):
        network.listen()
    with closing(SockDiag(network.path)) as diag:
        assert len({sock.local for sock in diag.tcp({TcpState.LISTEN})}) == 1000
