"""Whose connections are that came from the node while the kernel could not say so; the kernel's answers are made up."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from zeropod.activator.network import PodNetwork
from zeropod.activator.probe_sources import ProbeSources
from zeropod.kernel.lookup import Activity, Arrival, Flow
from zeropod.kernel.sock_diag import TcpSocket, TcpState

PORT = 8080
POD, NODE = ("10.0.0.2", PORT), ("10.0.0.1", 40000)
OTHER = ("10.0.0.1", 40001)
LONG_AGO = -1_000_000_000
BEFORE = Activity(100, 7, 2)
LATE = {Flow(NODE, PORT): Arrival(150, POD[0])}


class FakeLookup:
    def __init__(self, activity: Activity, undetermined: dict[Flow, Arrival]) -> None:
        self.seen, self._unsure = activity, undetermined
        self.probers: dict[Flow, Arrival] = {}

    def undetermined(self) -> dict[Flow, Arrival]:
        return self._unsure

    def flow(self, flow: Flow) -> int | None:
        return self.probers[flow].ns if flow in self.probers else None

    def mark_as_probe(self, flow: Flow, arrival: Arrival) -> None:
        self.probers[flow] = arrival


def connection(remote: tuple[str, int] = NODE, state: TcpState = TcpState.ESTABLISHED, received: int = 90) -> TcpSocket:
    return TcpSocket(2, state, POD, remote, 0, 0, 0, 0, 1, 1, received)


def look(
    lookup: FakeLookup, connections: list[TcpSocket], kubelets: tuple[str, int] | None = NODE, *, closed: bool = False
) -> bool:
    """`kubelets`: the address of the only connection that a prober has; `closed`: whoever it was has closed it."""
    network: Any = object.__new__(PodNetwork)
    probers: Any = object.__new__(ProbeSources)
    there = {(sock.local, sock.remote): sock for sock in connections}
    network._own, network.lookup, network.probe_sources = True, lookup, probers
    network._diag = SimpleNamespace(connection=lambda own, other: there.get((own, other)))
    probers._lookup, probers._peers = lookup, SimpleNamespace(has_closed=lambda own, other: closed)
    probers.is_probe_source = lambda own, other: (own, other) == (kubelets, POD)
    probers.made = lambda sock: lookup.flow(Flow(sock.remote, PORT)) is not None
    network.activity, network.connections = lambda ports: lookup.seen, lambda: connections
    return network.only_probes_since({PORT}, BEFORE) is lookup.seen


def test_a_prober_is_known_by_its_socket_and_taken_for_one_from_now_on() -> None:
    lookup = FakeLookup(
        Activity(150, 8, 3), LATE | {Flow(OTHER, PORT): Arrival(LONG_AGO, POD[0]), Flow(OTHER, 9): Arrival(151, POD[0])}
    )
    assert look(lookup, [connection(), connection(OTHER)])
    assert lookup.probers == LATE


@pytest.mark.parametrize(
    ("activity", "undetermined"),
    [
        (Activity(160, 9, 3), LATE),
        (Activity(160, 9, 4), LATE),
    ],
    ids=["somebody else came, too", "one has been forgotten"],
)
def test_in_doubt_it_is_a_client(activity: Activity, undetermined: dict[Flow, Arrival]) -> None:
    lookup = FakeLookup(activity, undetermined)
    assert not look(lookup, [connection()])
    assert lookup.probers == {}


def test_one_who_came_to_a_port_that_had_been_read_already_is_found() -> None:
    """Before the last one that was seen, at another port, and yet not among those that were counted."""
    late = {Flow(NODE, PORT): Arrival(BEFORE.last_ns - 1, POD[0])}
    lookup = FakeLookup(replace(BEFORE, connections=8, undetermined=3), late)
    assert look(lookup, [connection()])
    assert lookup.probers == late


def test_who_was_counted_before_is_not_looked_up_however_late_he_came() -> None:
    lookup = FakeLookup(Activity(150, 8, 3), LATE | {Flow(OTHER, PORT): Arrival(BEFORE.last_ns, POD[0])})
    assert look(lookup, [connection(), connection(OTHER)])
    assert lookup.probers == LATE


def test_one_that_was_known_before_is_not_looked_up_again() -> None:
    """It may have been answered since, and its other end be closed."""
    lookup = FakeLookup(Activity(160, 8, 3), LATE | {Flow(OTHER, PORT): Arrival(160, POD[0])})
    lookup.probers |= LATE
    assert look(lookup, [connection(state=TcpState.CLOSE_WAIT), connection(OTHER)], kubelets=OTHER)


@pytest.mark.parametrize("kubelets", [NODE, OTHER])
def test_who_comes_twice_from_the_same_port_is_not_counted_and_yet_known(kubelets: tuple[str, int]) -> None:
    lookup = FakeLookup(replace(BEFORE, last_ns=150), LATE)
    assert look(lookup, [connection()], kubelets) is (kubelets == NODE)
    assert lookup.probers == (LATE if kubelets == NODE else {})


def test_a_prober_may_close_it_while_its_owner_is_looked_for() -> None:
    assert look(FakeLookup(Activity(150, 8, 3), LATE), [connection(received=0)], kubelets=None, closed=True)


def test_who_leaves_at_once_has_said_it_to_the_application() -> None:
    assert not look(FakeLookup(Activity(150, 8, 3), LATE), [connection()], kubelets=None, closed=True)


def test_one_that_is_somebodys_makes_all_of_them_count() -> None:
    lookup = FakeLookup(Activity(160, 9, 4), LATE | {Flow(OTHER, PORT): Arrival(160, POD[0])})
    assert not look(lookup, [connection(), connection(OTHER)])
    assert lookup.probers == {}


@pytest.mark.parametrize(
    ("there", "probers"),
    [
        ([], True),
        ([connection(state=TcpState.CLOSE_WAIT, received=1)], True),
        ([connection(state=TcpState.TIME_WAIT)], True),
        ([connection(state=TcpState.CLOSE_WAIT)], False),
        ([connection(received=0)], False),
    ],
    ids=["gone", "closed without a word", "served", "closed after a request", "silent"],
)
def test_what_is_over_asks_for_nobody(there: list[TcpSocket], probers: bool) -> None:
    assert look(FakeLookup(Activity(150, 8, 3), LATE), there, kubelets=None) is probers


@pytest.mark.parametrize("waiting", [[], [NODE], [OTHER], [NODE, OTHER]], ids=["nobody", "a prober", "another", "both"])
def test_who_was_known_before_his_handshake_ended_is_known_when_he_waits(waiting: list[tuple[str, int]]) -> None:
    network: Any = object.__new__(PodNetwork)
    stray = replace(BEFORE, last_ns=BEFORE.last_ns + 1)
    network.lookup = FakeLookup(stray, {})
    network.probe_sources = SimpleNamespace(made=lambda sock: sock.remote == NODE)
    network.activity = lambda ports: stray
    network.connections = lambda: [connection(remote) for remote in waiting]
    assert network.only_probes_since({PORT}, BEFORE) is (None if OTHER in waiting else stray)


def test_who_comes_while_it_is_looked_who_waits_is_looked_up_as_well() -> None:
    lookup = FakeLookup(BEFORE, LATE)

    def connections() -> list[TcpSocket]:
        lookup.seen = Activity(150, 8, 3)
        return [connection()]

    network: Any = object.__new__(PodNetwork)
    network.lookup, network.activity, network.connections, network._diag = (
        lookup,
        lambda _: lookup.seen,
        connections,
        None,
    )
    network.probe_sources = SimpleNamespace(made=lambda sock: False, arrived_late=lambda since, diag: since == LATE)
    assert network.only_probes_since({PORT}, BEFORE) == Activity(150, 8, 3)


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
