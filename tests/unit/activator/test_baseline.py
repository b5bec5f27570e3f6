"""Which connections count since the freeze, over a network that only says what a test has put there."""

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.shim.fakes import FakeNetwork

from zeropod.activator.network import Baseline, connection_of
from zeropod.kernel.lookup import Activity
from zeropod.kernel.sock_diag import TcpSocket, TcpState
from zeropod.lifecycle.settings import Settings

PORT, OTHER = 8080, 9090
OWN, FOREIGN = 7, 8
OWNS = frozenset({OWN})


class Network(FakeNetwork):
    """Knows listeners, too."""

    def __init__(self) -> None:
        super().__init__()
        self.listening: list[TcpSocket] = []

    def come(self, port: int = PORT) -> None:
        seen = self.lookups.get(port, Activity(0, 0))
        self.lookups[port] = Activity(seen.last_ns + 1, seen.connections + 1)

    def listeners(self) -> list[TcpSocket]:
        return self.listening


class Frozen:
    """A container that has just been frozen, and its baseline."""

    def __init__(self, settings: Settings, network: Network) -> None:
        self.network = network
        given: Any = network
        self.baseline = Baseline(given, settings.ports)
        self.baseline.take(OWNS, frozenset({PORT}))


@pytest.fixture
def network() -> Network:
    made = Network()
    made.come()
    return made


@pytest.fixture
def frozen(network: Network) -> Frozen:
    return Frozen(Settings(), network)


def connection(state: TcpState, inode: int = OWN, port: int = 5) -> TcpSocket:
    return TcpSocket(2, state, ("10.0.0.1", PORT), ("10.0.0.2", port), inode, 0, 0, 0, 0, 0)


def listener(port: int, inode: int, waiting: int) -> TcpSocket:
    made = connection(TcpState.LISTEN, inode)
    return replace(made, local=("0.0.0.0", port), remote=("0.0.0.0", 0), receive_queue=waiting)


def test_what_came_before_the_freeze_does_not_count(frozen: Frozen) -> None:
    assert not frozen.baseline.has_connected()


def test_what_comes_later_does(frozen: Frozen) -> None:
    frozen.network.come()
    assert frozen.baseline.has_connected()


def test_only_its_own_ports_count(frozen: Frozen) -> None:
    frozen.network.come(OTHER)
    assert not frozen.baseline.has_connected()


def test_ports_that_were_chosen_count_in_the_place_of_those_that_it_listens_on(network: Network) -> None:
    frozen = Frozen(Settings(ports=frozenset({OTHER})), network)
    network.come(PORT)
    assert not frozen.baseline.has_connected()
    network.come(OTHER)
    assert frozen.baseline.has_connected()


def test_what_is_disregarded_does_not_count_any_more_and_what_came_meanwhile_does(frozen: Frozen) -> None:
    frozen.network.come()
    seen = frozen.baseline.seen()
    frozen.network.come()
    frozen.baseline.disregard(seen)
    assert frozen.baseline.has_connected()
    frozen.baseline.disregard(frozen.baseline.seen())
    assert not frozen.baseline.has_connected()


@pytest.mark.parametrize(
    ("port", "inode", "waiting", "waits"),
    [(PORT, OWN, 1, True), (PORT, OWN, 0, False), (PORT, FOREIGN, 1, False), (OTHER, OWN, 1, False)],
)
def test_what_is_not_accepted_waits_in_a_listener_of_its_own(
    frozen: Frozen, port: int, inode: int, waiting: int, waits: bool
) -> None:
    frozen.network.listening = [listener(port, inode, waiting)]
    assert frozen.baseline.waits_in_listeners(OWNS) is waits


@pytest.mark.parametrize(
    ("state", "inode", "ending"),
    [
        (TcpState.CLOSE_WAIT, OWN, True),
        (TcpState.CLOSE_WAIT, FOREIGN, False),
        (TcpState.ESTABLISHED, OWN, False),
    ],
)
def test_a_connection_that_the_peer_has_ended_since_is_the_containers_to_close(
    frozen: Frozen, state: TcpState, inode: int, ending: bool
) -> None:
    frozen.network.sockets = [connection(state, inode)]
    assert frozen.baseline.ending(OWNS) is ending


def test_one_that_was_left_half_closed_before_the_freeze_is_not_waited_for(network: Network) -> None:
    left = connection(TcpState.CLOSE_WAIT, port=5)
    network.sockets = [left]
    frozen = Frozen(Settings(), network)
    assert not frozen.baseline.ending(OWNS)
    network.sockets = [left, connection(TcpState.CLOSE_WAIT, port=6)]
    assert frozen.baseline.ending(OWNS)


def test_a_connection_is_known_by_both_ends() -> None:
    one, other = connection(TcpState.CLOSE_WAIT, port=5), connection(TcpState.ESTABLISHED, FOREIGN, port=5)
    assert connection_of(one) == connection_of(other)
    assert connection_of(one) != connection_of(connection(TcpState.CLOSE_WAIT, port=6))
