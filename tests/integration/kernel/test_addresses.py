"""The node's own addresses, as they come and go; and who is at the other end of a connection from this node."""

import socket
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import trio
from tests.integration.kernel.conftest import Network
from tests.integration.node import until

from zeropod.kernel import namespace
from zeropod.kernel.addresses import SERVICES, NodeAddresses
from zeropod.kernel.local_peer import LocalPeers


def ip(network: Network, *arguments: str) -> None:
    with namespace.entered(network.path):
        subprocess.run(["ip", *arguments], check=True, timeout=10)


@pytest.fixture
def addresses(network: Network) -> Iterator[NodeAddresses]:
    opened = network.run(NodeAddresses)
    yield opened
    opened.close()


async def test_addresses_that_come_and_go_are_followed(network: Network, addresses: NodeAddresses) -> None:
    def now() -> set[str]:
        # Names of interfaces are looked up in the caller's namespace, as by a shim, which is in the node's.
        return {address for address in network.run(addresses.all) if not address.startswith("fe80")}

    assert now() == set()  # lo's do not count
    ip(network, "link", "add", "bridge1", "type", "bridge")
    for command, address, expected in (
        ("add", "10.1.2.3/24", {"10.1.2.3"}),
        ("add", "fd00::7/64", {"10.1.2.3", "fd00::7"}),
        ("add", "10.1.2.4 peer 10.9.9.9/32", {"10.1.2.3", "fd00::7", "10.1.2.4"}),
        ("del", "10.1.2.3/24", {"fd00::7", "10.1.2.4"}),
    ):
        ip(network, "addr", command, *address.split(), "dev", "bridge1")
        with trio.fail_after(5):
            await addresses.changed()
        assert now() == expected


def test_the_addresses_of_services_are_not_the_nodes(network: Network, addresses: NodeAddresses) -> None:
    ip(network, "link", "add", SERVICES, "type", "bridge")
    ip(network, "addr", "add", "10.96.0.1/32", "dev", SERVICES)
    assert network.run(addresses.all) == set()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_process_at_the_other_end_is_known_by_its_name(network: Network, family: socket.AddressFamily) -> None:
    pair = network.pair(family)
    own, other = pair.client.getsockname()[:2], pair.client.getpeername()[:2]
    with open("/proc/self/comm") as file:
        mine = file.read().strip()
    for names, expected in (([mine], True), (["kubelet"], False)):
        with namespace.entered(network.path):
            peers = LocalPeers(names)
        assert peers.is_named(own, other) is expected
        assert not peers.is_named((own[0], 1), other), "nobody's"
        peers.close()


def test_a_process_whose_ipv6_socket_speaks_ipv4_is_known_by_the_address_that_its_peer_sees(network: Network) -> None:
    listener = network.listen()
    client = network.own(network.run(lambda: socket.socket(socket.AF_INET6)))
    client.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
    accepted = network.own(listener.accept()[0])
    with open("/proc/self/comm") as file, namespace.entered(network.path):
        peers = LocalPeers([file.read().strip()])
    assert peers.is_named(accepted.getpeername(), accepted.getsockname())
    peers.close()


def test_who_has_said_all_and_waits_for_an_answer_has_not_closed_the_connection(network: Network) -> None:
    pair = network.pair()
    own, other = pair.client.getsockname(), pair.client.getpeername()
    with namespace.entered(network.path):
        peers = LocalPeers(["kubelet"])
    assert not peers.has_closed(own, other)
    pair.client.shutdown(socket.SHUT_WR)
    assert pair.server.recv(1) == b""
    assert not peers.has_closed(own, other)
    pair.client.close()
    assert peers.has_closed(own, other)
    peers.close()


def test_a_close_that_waits_until_it_has_arrived_is_one(network: Network) -> None:
    pair = network.pair()
    own, other = pair.client.getsockname(), pair.client.getpeername()
    with namespace.entered(network.path):
        peers = LocalPeers(["kubelet"])
    ip(network, "link", "set", "lo", "down")
    pair.client.shutdown(socket.SHUT_WR)
    assert not peers.has_closed(own, other), "its FIN has not arrived, but it is somebody's"
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(pair.client.close)
        try:
            until(lambda: peers.has_closed(own, other), "its close is noticed")
            assert not closing.done()
        finally:
            ip(network, "link", "set", "lo", "up")
    peers.close()
