"""When a container's ports were active last, and whether a client may wait for an answer: pure functions.

A new connection is seen by the `sk_lookup` program, data on an established one, either way, by the kernel's own
`tcpi_last_data_recv` and `tcpi_last_data_sent`.
"""

from collections.abc import Collection, Iterable

from zeropod.kernel.lookup import Activity
from zeropod.kernel.sock_diag import TcpSocket

_MILLISECOND = 1_000_000


def last_activity(
    ports: Collection[int],
    connected: Activity,
    sockets: Iterable[TcpSocket],
    now: int,
) -> int:
    """Return when something last happened on `ports` in nanoseconds of CLOCK_MONOTONIC; 0 if nothing has."""
    moved = (now - quiet_ms(sock) * _MILLISECOND for sock in sockets if sock.local[1] in ports)
    return max([connected.last_ns, *moved])


def quiet_ms(sock: TcpSocket) -> int:
    """Return the milliseconds since data went either way; 0 where the kernel does not say."""
    return min(sock.last_data_received_ms or 0, sock.last_data_sent_ms or 0)


def unanswered(ports: Collection[int], sockets: Iterable[TcpSocket]) -> bool:
    """Return whether on a connection to one of `ports` the client may have sent last, and be waiting for an answer.

    The kernel's clock here ticks every 4 ms or so: of two ages that are the same, either may be the later.
    """
    return any(
        sock.local[1] in ports
        and sock.last_data_received_ms is not None
        and sock.last_data_sent_ms is not None
        and sock.last_data_received_ms <= sock.last_data_sent_ms
        for sock in sockets
    )
