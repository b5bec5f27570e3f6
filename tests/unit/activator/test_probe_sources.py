"""Which connections in the pod are a prober's and not dealt with yet; the kernel's answers are made up."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from zeropod.activator.network import PodNetwork
from zeropod.kernel.sock_diag import TcpSocket, TcpState

PORT = 8080
POD, NODE = ("10.0.0.2", PORT), ("10.0.0.1", 40000)


def connection(state: TcpState) -> TcpSocket:
    return TcpSocket(2, state, POD, NODE, 0, 0, 0, 0, 1, 1, 90)


@pytest.mark.parametrize("inode", [0, 7])
@pytest.mark.parametrize("state", [TcpState.ESTABLISHED, TcpState.CLOSE_WAIT])
def test_a_connection_that_is_accepted_at_the_first_look_is_a_probers(inode: int, state: TcpState) -> None:
    """Before or after the kernel lists it: its owner is asked for his sockets afterwards."""
    network: Any = object.__new__(PodNetwork)
    accepted: set[int] = set()

    def connections() -> list[TcpSocket]:
        accepted.add(7)
        return [replace(connection(state=state), inode=inode)]

    network.connections, network.probe_sources = connections, SimpleNamespace(made=lambda sock: True)
    assert len(network.from_probe_sources(lambda: set(accepted), {PORT})) == 1


@pytest.mark.parametrize("state", [TcpState.FIN_WAIT1, TcpState.FIN_WAIT2, TcpState.LAST_ACK])
def test_one_that_the_application_has_closed_is_not_waited_for(state: TcpState) -> None:
    network: Any = object.__new__(PodNetwork)
    network.connections = lambda: [connection(state=state)]
    network.probe_sources = SimpleNamespace(made=lambda sock: True)
    assert network.from_probe_sources(lambda: {7}, {PORT}) == []
