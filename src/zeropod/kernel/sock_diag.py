"""The TCP and Unix sockets of a network namespace, as the kernel's sock_diag reports them.

Owns one netlink socket inside the namespace, the requests, and the parsing of the answers. /proc/net/unix has neither
the peer of a socket nor a listener's pending connections.

Source of facts: include/uapi/linux/{netlink,inet_diag,unix_diag,tcp}.h, net/unix/diag.c, sock_diag(7).
"""

import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address

from zeropod.kernel import namespace, netlink

_NETLINK_SOCK_DIAG = 4
_TCPDIAG_GETSOCK = 18
_SOCK_DIAG_BY_FAMILY = 20
_INET_DIAG_INFO = 2
_MESSAGE = struct.Struct("=BBxx2s2s16s16s16xIIII")  # struct inet_diag_msg
_REQUEST = struct.Struct("=xxxB48xI4x")  # struct inet_diag_req: extensions, states
_ONE = struct.Struct("=BBBxI2s2s16s16sIQ")  # struct inet_diag_req_v2
_ALL_STATES, _ANY_COOKIE = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_INFO = struct.Struct("=44xI4xI72xQ")  # of struct tcp_info: last data sent, last data received, bytes received
_ATTEMPTS = 3

_UNIX_REQUEST = struct.Struct("=BBxxIIIII")
"""struct unix_diag_req: family, protocol, states, inode, flags of what to return, cookie."""
_UNIX_MESSAGE = struct.Struct("=BBBxIII")
"""struct unix_diag_msg: family, type, state, inode, cookie."""
_NAME, _PEER, _PENDING, _QUEUES, _SHUTDOWN = 0, 2, 3, 4, 6
_SHOW = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4
"""Name, peer, pending connections and queue lengths."""
_INODE = struct.Struct("=I")
_TWO = struct.Struct("=II")
"""struct unix_diag_rqlen: incoming, outgoing."""

Address = tuple[str, int]


class TcpState(IntEnum):
    """States of a TCP socket, with the numbers of include/net/tcp_states.h."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12


CLOSED = frozenset(
    {TcpState.FIN_WAIT1, TcpState.FIN_WAIT2, TcpState.CLOSING, TcpState.TIME_WAIT, TcpState.LAST_ACK, TcpState.CLOSE}
)
"""States of an end that its process has closed or shut down for sending."""

UNACKNOWLEDGED = frozenset({TcpState.FIN_WAIT1, TcpState.CLOSING, TcpState.LAST_ACK})
"""Those of them in which the other end has not acknowledged the FIN."""


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """One TCP socket. The fields from `last_data_received_ms` on are None for a listener and in TIME_WAIT.

    Addresses are (address, port); IPv4 on an IPv6 socket is shown as IPv4. A listener's `receive_queue` is the length
    of its accept queue and its `send_queue` the limit of that; otherwise both are bytes. Milliseconds count from now
    backwards; the kernel starts them at the connection's birth.
    """

    family: int
    state: TcpState
    local: tuple[str, int]
    remote: tuple[str, int]
    inode: int
    uid: int
    receive_queue: int
    send_queue: int
    last_data_received_ms: int | None = None
    last_data_sent_ms: int | None = None
    bytes_received: int | None = None


class SockDiag:
    """A sock_diag socket inside one network namespace, for any number of queries.

    Not thread-safe. Raises OSError when the namespace cannot be entered or the kernel has no INET_DIAG.
    """

    def __init__(self, netns: namespace.PathOrFd) -> None:
        with namespace.entered(netns):
            self._netlink = netlink.Netlink(_NETLINK_SOCK_DIAG)

    def close(self) -> None:
        self._netlink.close()

    def connection(self, own: Address, other: Address) -> TcpSocket | None:
        """Return the end at `own` of the connection to `other`, which the kernel finds by hash (0.03 ms).

        If there is none, the kernel looks for a listener as for a packet, which runs the namespace's sk_lookup program.
        """
        family = socket.AF_INET6 if ":" in own[0] else socket.AF_INET
        addresses = (address.partition("%")[0] for address, _ in (own, other))
        source, target = (socket.inet_pton(family, address).ljust(16, b"\0") for address in addresses)
        ports = own[1].to_bytes(2, "big"), other[1].to_bytes(2, "big")
        asked = 1 << (_INET_DIAG_INFO - 1)
        request = _ONE.pack(family, socket.IPPROTO_TCP, asked, _ALL_STATES, *ports, source, target, 0, _ANY_COOKIE)
        try:
            kind, body = self._netlink.ask(_SOCK_DIAG_BY_FAMILY, request)
        except FileNotFoundError:
            return None
        found = parse(body) if kind == _SOCK_DIAG_BY_FAMILY else None
        return None if found and found.state is TcpState.LISTEN else found

    def tcp(self, states: Iterable[TcpState] = frozenset(TcpState)) -> list[TcpSocket]:
        """Return all TCP sockets, IPv4 and IPv6, that are in one of `states`.

        The kernel walks the whole machine's hash table of connections (one walk, about 0.3 ms for
        262,144 buckets), unless only LISTEN is asked for (0.05 ms). When sockets change so fast that
        none of three walks is consistent, the last result is returned: it may lack a socket.
        """
        # The older of the two requests: it takes both address families in one walk, where
        # SOCK_DIAG_BY_FAMILY needs one each (net/ipv4/inet_diag.c, inet_diag_dump_compat).
        request = _REQUEST.pack(1 << (_INET_DIAG_INFO - 1), sum(1 << state for state in set(states)))
        answer = self._netlink.dump(_TCPDIAG_GETSOCK, request)
        for _ in range(_ATTEMPTS - 1):
            if answer.interrupted:
                answer = self._netlink.dump(_TCPDIAG_GETSOCK, request)
        return [parse(body) for kind, body in answer.messages if kind == _TCPDIAG_GETSOCK]


def parse(body: bytes) -> TcpSocket:
    """Parse one inet_diag_msg with its attributes. Raises ValueError when it is not one."""
    if len(body) < _MESSAGE.size:
        raise ValueError(f"inet_diag message of {len(body)} bytes, {_MESSAGE.size} expected")
    family, state, sport, dport, src, dst, rqueue, wqueue, uid, inode = _MESSAGE.unpack_from(body)
    info = dict(netlink.attributes(body[_MESSAGE.size :])).get(_INET_DIAG_INFO, b"")
    # A listener's is all zeroes, which would look like data received just now.
    has_data = state != TcpState.LISTEN and len(info) >= _INFO.size
    sent, received, count = _INFO.unpack_from(info) if has_data else (None, None, None)
    return TcpSocket(
        family,
        TcpState(state),
        (_address(family, src), int.from_bytes(sport, "big")),
        (_address(family, dst), int.from_bytes(dport, "big")),
        inode,
        uid,
        rqueue,
        wqueue,
        received,
        sent,
        count,
    )


def _address(family: int, raw: bytes) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[:4])
    if family != socket.AF_INET6:
        raise ValueError(f"inet_diag message of address family {family}")
    mapped = IPv6Address(raw).ipv4_mapped
    return str(mapped) if mapped else socket.inet_ntop(socket.AF_INET6, raw)


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """One Unix socket; `peer` is the inode of the other end, None without one.

    The other end has inode 0 while it is not accepted yet, and once it is closed.
    """

    inode: int
    type: int
    listens: bool
    name: str
    """The path it is bound to, with a leading @ if abstract; empty if unbound."""
    is_shut: bool
    """Whether at least one direction is shut down, as when the other end is closed."""
    peer: int | None
    pending: tuple[int, ...]
    """Inodes of the connecting ends that wait to be accepted; 0 for an end that is closed already."""
    unsent: int
    """Bytes that it has sent and the other end has not read; for a listener, the limit of its queue."""


def unix(netns: namespace.PathOrFd) -> list[UnixSocket]:
    """Return all Unix sockets of a network namespace. Raises OSError."""
    with namespace.entered(netns):
        channel = netlink.Netlink(_NETLINK_SOCK_DIAG)
    try:
        request = _UNIX_REQUEST.pack(socket.AF_UNIX, 0, _ALL_STATES, 0, _SHOW, 0, 0)
        messages = channel.dump(_SOCK_DIAG_BY_FAMILY, request).messages
    finally:
        channel.close()
    return [parse_unix(body) for kind, body in messages if kind == _SOCK_DIAG_BY_FAMILY]


def parse_unix(body: bytes) -> UnixSocket:
    """Return one unix_diag_msg with its attributes. Raises ValueError for anything else."""
    if len(body) < _UNIX_MESSAGE.size:
        raise ValueError(f"unix_diag message of {len(body)} bytes, {_UNIX_MESSAGE.size} expected")
    family, kind, state, inode, _, _ = _UNIX_MESSAGE.unpack_from(body)
    if family != socket.AF_UNIX:
        raise ValueError(f"unix_diag message of address family {family}")
    attributes = dict(netlink.attributes(body[_UNIX_MESSAGE.size :]))
    peer = attributes.get(_PEER, b"")
    pending = attributes.get(_PENDING, b"")
    queues = attributes.get(_QUEUES, b"")
    return UnixSocket(
        inode,
        kind,
        state == TcpState.LISTEN,
        _printable(attributes.get(_NAME, b"")),
        attributes.get(_SHUTDOWN, b"\0") != b"\0",
        _INODE.unpack_from(peer)[0] if len(peer) >= _INODE.size else None,
        tuple(each for (each,) in _INODE.iter_unpack(pending[: len(pending) // _INODE.size * _INODE.size])),
        _TWO.unpack_from(queues)[1] if len(queues) >= _TWO.size else 0,
    )


def _printable(name: bytes) -> str:
    if name.startswith(b"\0"):
        return "@" + os.fsdecode(name[1:]).replace("\0", "@")
    return os.fsdecode(name.partition(b"\0")[0])
