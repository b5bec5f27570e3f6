"""What the kernel has counted, as the time of the last activity."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel.lookup import Activity
from zeropod.kernel.sock_diag import TcpSocket, TcpState
from zeropod.lifecycle.idle.monitor import last_activity, quiet_ms, unanswered

NOW = 10**15
MILLISECOND = 10**6
AGES = st.one_of(st.none(), st.integers(0, 10**6))
PORTS = st.integers(1, 5)
NEVER = Activity(0, 0)


def sock(port: int, received_ms: int | None, sent_ms: int | None) -> TcpSocket:
    ends = ("10.0.0.1", port), ("10.0.0.2", 40000)
    return TcpSocket(2, TcpState.ESTABLISHED, *ends, 1, 0, 0, 0, received_ms, sent_ms)


SOCKETS = st.lists(st.builds(sock, PORTS, AGES, AGES))
CONNECTED = st.builds(Activity, st.integers(0, NOW), st.integers(0, 9))
NOTHING = Activity(0, 0)


def test_without_a_sign_of_life_there_is_none() -> None:
    assert last_activity({80}, NOTHING, [], NOW) == 0


def test_a_new_connection_is_activity() -> None:
    assert last_activity({80, 443}, Activity(7, 1), [], NOW) == 7


def test_data_either_way_is_activity() -> None:
    for ages in ((2, 9), (9, 2)):
        assert last_activity({80}, Activity(5, 1), [sock(80, *ages)], NOW) == NOW - 2 * MILLISECOND


def test_data_on_other_ports_does_not_count() -> None:
    assert last_activity({80}, NOTHING, [sock(81, 0, 0)], NOW) == 0


def test_a_connection_of_which_the_kernel_says_nothing_is_active() -> None:
    assert quiet_ms(sock(80, None, None)) == 0
    assert last_activity({80}, NOTHING, [sock(80, None, None)], NOW) == NOW


@given(st.frozensets(PORTS), CONNECTED, SOCKETS)
def test_nothing_happens_in_the_future(ports: frozenset[int], connected: Activity, socks: list[TcpSocket]) -> None:
    assert 0 <= last_activity(ports, connected, socks, NOW) <= NOW


@given(st.frozensets(PORTS), CONNECTED, SOCKETS, SOCKETS)
def test_more_connections_never_make_it_longer_ago(
    ports: frozenset[int], connected: Activity, some: list[TcpSocket], others: list[TcpSocket]
) -> None:
    assert last_activity(ports, connected, some + others, NOW) >= last_activity(ports, connected, some, NOW)


@pytest.mark.parametrize(
    ("received_ms", "sent_ms", "owed"),
    [(1, 2, True), (2, 1, False), (1, 1, True), (None, 1, False), (1, None, False)],
)
def test_an_answer_is_owed_where_the_client_has_spoken_last(
    received_ms: int | None, sent_ms: int | None, owed: bool
) -> None:
    assert unanswered({80}, [sock(80, received_ms, sent_ms)]) is owed


def test_one_client_who_waits_is_enough_and_those_of_other_ports_do_not_count() -> None:
    waiting, served = sock(80, 1, 2), sock(80, 2, 1)
    assert unanswered({80}, [served, waiting])
    assert not unanswered({81}, [served, waiting])
