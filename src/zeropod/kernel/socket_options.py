"""Socket options that CRIU 4.2 does not restore: reading those that a socket has set, and setting them again.

An option counts as set if its value differs from that of a new socket in the same network namespace: defaults depend on
sysctls. Each option here was seen to have its default again after a dump and restore. Left out are those that the
kernel itself changes on a connection (TCP_MAXSEG, TCP_WINDOW_CLAMP, TCP_QUICKACK, SO_INCOMING_CPU).

Source of facts: tcp(7), ip(7), ipv6(7), udp(7), socket(7), include/uapi/linux.
"""

import ctypes
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zeropod.kernel import libc, namespace
from zeropod.kernel.sock_diag import TcpState

_SOCKET, _IP, _TCP, _UDP, _IPV6 = socket.SOL_SOCKET, 0, 6, 17, 41
_LONGEST = 16
_TCP_INFO = 11


@dataclass(frozen=True, slots=True)
class Option:
    name: str
    level: int
    number: int


def _options(level: int, **numbers: int) -> tuple[Option, ...]:
    return tuple(Option(name, level, number) for name, number in numbers.items())


_ANY = _options(_SOCKET, SO_BUSY_POLL=46, SO_MAX_PACING_RATE=47, SO_ZEROCOPY=60)
_NOT_CONNECTIONS = _options(_SOCKET, SO_TIMESTAMP=29, SO_TIMESTAMPNS=35, SO_TIMESTAMPING=37)
"""Not read for connections, of which there may be thousands: each option costs half a microsecond."""
_CONNECTION = _options(
    _TCP,
    TCP_USER_TIMEOUT=18,
    TCP_LINGER2=8,
    TCP_NOTSENT_LOWAT=25,
    TCP_THIN_LINEAR_TIMEOUTS=16,
    TCP_CONGESTION=13,
    TCP_INQ=36,
)
_LISTENER = (
    *_options(_SOCKET, SO_INCOMING_CPU=49),
    *_options(
        _TCP,
        TCP_MAXSEG=2,
        TCP_SYNCNT=7,
        TCP_DEFER_ACCEPT=9,
        TCP_WINDOW_CLAMP=10,
        TCP_FASTOPEN=23,
        TCP_TX_DELAY=37,
        TCP_RTO_MAX_MS=44,
        TCP_RTO_MIN_US=45,
        TCP_DELACK_MAX_US=46,
        TCP_SAVE_SYN=27,
    ),
    *_options(_IP, IP_MINTTL=21, IP_BIND_ADDRESS_NO_PORT=24),
)
_V4 = _options(_IP, IP_RECVERR=11, IP_MTU_DISCOVER=10, IP_TRANSPARENT=19)
_V4_DATAGRAM = _options(
    _IP,
    IP_RECVTTL=12,
    IP_RECVTOS=13,
    IP_RECVOPTS=6,
    IP_RECVORIGDSTADDR=20,
    IP_MULTICAST_IF=32,
    IP_MULTICAST_TTL=33,
    IP_MULTICAST_LOOP=34,
    IP_MULTICAST_ALL=49,
    IP_UNICAST_IF=50,
    IP_RECVFRAGSIZE=25,
    IP_LOCAL_PORT_RANGE=51,
    IP_CHECKSUM=23,
    IP_RECVERR_RFC4884=26,
)
_V6 = _options(
    _IPV6,
    IPV6_TCLASS=67,
    IPV6_RECVERR=25,
    IPV6_MTU_DISCOVER=23,
    IPV6_TRANSPARENT=75,
    IPV6_AUTOFLOWLABEL=70,
    IPV6_MINHOPCOUNT=73,
)
_V4_ON_V6 = _options(_IP, IP_TOS=1, IP_RECVERR=11)
"""IPv4 options of an IPv6 socket, for IPv4 packets that it receives."""
_V6_DATAGRAM = _options(
    _IPV6,
    IPV6_MULTICAST_IF=17,
    IPV6_MULTICAST_HOPS=18,
    IPV6_MULTICAST_LOOP=19,
    IPV6_RECVHOPLIMIT=51,
    IPV6_RECVTCLASS=66,
    IPV6_DONTFRAG=62,
    IPV6_FLOWINFO_SEND=33,
    IPV6_ADDR_PREFERENCES=72,
)
_UDP_ONLY = (
    *_options(_UDP, UDP_SEGMENT=103, UDP_GRO=104, UDP_NO_CHECK6_TX=101, UDP_NO_CHECK6_RX=102),
    *_options(_SOCKET, SO_RXQ_OVFL=40, SO_SELECT_ERR_QUEUE=45),
)

_ALL = (_ANY, _NOT_CONNECTIONS, _CONNECTION, _LISTENER, _V4, _V4_DATAGRAM, _V6, _V4_ON_V6, _V6_DATAGRAM, _UDP_ONLY)
KNOWN = frozenset(option for options in _ALL for option in options)
"""All options that are read of any socket."""

_GROUP_FILTER = struct.Struct("@I4x128sII")
"""struct group_filter without sources."""
_MCAST_JOIN_GROUP, _MCAST_MSFILTER = 42, 48


@dataclass(frozen=True, slots=True)
class Group:
    """A multicast group on an interface."""

    interface: int
    address: str

    @property
    def family(self) -> int:
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET

    def packed(self) -> bytes:
        raw = socket.inet_pton(self.family, self.address)
        if self.family == socket.AF_INET6:
            return struct.pack("=HHI", socket.AF_INET6, 0, 0) + raw
        return struct.pack("=HH", socket.AF_INET, 0) + raw


def applicable(family: int, kind: int, state: int) -> Sequence[Option]:
    """Return the options to read for an IP socket of this family and type; `state` is TCP's, or 0."""
    datagram = kind != socket.SOCK_STREAM
    options = list(_ANY)
    if family == socket.AF_INET:
        options += _V4 + (_V4_DATAGRAM if datagram else ())
    else:
        options += _V6 + _V4_ON_V6 + (_V6_DATAGRAM if datagram else ())
    if kind == socket.SOCK_STREAM:
        options += _CONNECTION + (_LISTENER + _NOT_CONNECTIONS if state == TcpState.LISTEN else ())
    else:
        options += _NOT_CONNECTIONS
    if kind == socket.SOCK_DGRAM:
        options += _UDP_ONLY
    return options


def tcp_state(sock: socket.SocketType) -> int:
    """Return the state of a TCP socket as tcp_info has it. Raises OSError."""
    return sock.getsockopt(_TCP, _TCP_INFO, 1)[0]


class Defaults:
    """The option values of new sockets in a network namespace, read once for each kind."""

    def __init__(self, netns: namespace.PathOrFd) -> None:
        self._netns = netns
        self._values: dict[tuple[int, int, int, bool], Mapping[Option, bytes]] = {}

    def changed(self, sock: socket.SocketType, state: int = 0) -> list[tuple[Option, bytes]]:
        """Return the options of a socket that differ from a new one's, with their values. Raises OSError."""
        family, kind, protocol = sock.family, sock.type, sock.proto
        key = (family, kind, protocol, state == TcpState.LISTEN)
        if key not in self._values:
            with namespace.entered(self._netns):
                new = socket.socket(family, kind, protocol)
            with new:
                self._values[key] = _values(new, applicable(family, kind, state))
        found = []
        get = sock.getsockopt
        for option, default in self._values[key].items():
            now = get(option.level, option.number, _LONGEST)
            if now != default:
                found.append((option, now))
        return found


def _values(sock: socket.SocketType, options: Iterable[Option]) -> dict[Option, bytes]:
    found = {}
    for option in options:
        with suppress(OSError):  # this kernel, or this kind of socket, does not have it
            found[option] = sock.getsockopt(option.level, option.number, _LONGEST)
    return found


def set_option(sock: socket.socket, option: Option, value: bytes) -> None:
    """Set an option to a value that `changed` returned. Raises OSError."""
    sock.setsockopt(option.level, option.number, value)


def groups_of(pid: int) -> list[Group]:
    """Return the multicast groups in the network namespace of a process. Raises OSError."""
    texts = {"igmp": "", "igmp6": ""}
    for name in texts:
        with suppress(FileNotFoundError):  # no IPv6
            texts[name] = Path(f"/proc/{pid}/net/{name}").read_text()
    return groups(**texts)


def groups(igmp: str, igmp6: str) -> list[Group]:
    """Return the multicast groups in /proc/net/igmp and igmp6, without those that every interface joins."""
    found, interface = [], 0
    for line in igmp.splitlines()[1:]:
        fields = line.split()
        if line[:1].isdecimal() and fields and fields[0].isascii() and fields[0].isdecimal():
            interface = int(fields[0])
        elif fields and len(fields[0]) == 8:
            with suppress(ValueError):
                found.append(Group(interface, socket.inet_ntoa(bytes.fromhex(fields[0])[::-1])))
    for line in igmp6.splitlines():
        fields = line.split()
        if len(fields) >= 3 and fields[0].isascii() and fields[0].isdecimal() and len(fields[2]) == 32:
            with suppress(ValueError):
                found.append(Group(int(fields[0]), socket.inet_ntop(socket.AF_INET6, bytes.fromhex(fields[2]))))
    return [group for group in found if not _is_everywhere(group.address)]


def _is_everywhere(address: str) -> bool:
    return address in ("224.0.0.1", "ff01::1", "ff02::1") or address.startswith("ff02::1:ff")


def memberships(sock: socket.SocketType, candidates: Iterable[Group]) -> list[Group]:
    """Return the candidate groups that the socket has joined."""
    found = []
    for group in candidates:
        if group.family == sock.family:
            level = _IPV6 if group.family == socket.AF_INET6 else _IP
            with suppress(OSError):  # EADDRNOTAVAIL: it is not in the group
                _get_filter(sock, level, _GROUP_FILTER.pack(group.interface, group.packed(), 0, 0))
                found.append(group)
    return found


def join(sock: socket.socket, group: Group) -> None:
    """Join a multicast group. Raises OSError."""
    level = _IPV6 if group.family == socket.AF_INET6 else _IP
    sock.setsockopt(level, _MCAST_JOIN_GROUP, struct.pack("@I4x128s", group.interface, group.packed()))


def _get_filter(sock: socket.SocketType, level: int, value: bytes) -> None:
    # getsockopt(2) reads the group from the result buffer, whose initial content Python's wrapper cannot set.
    buffer = ctypes.create_string_buffer(value, len(value))
    length = ctypes.create_string_buffer(struct.pack("@I", len(value)), 4)
    libc.call("getsockopt", sock.fileno(), level, _MCAST_MSFILTER, buffer, length)
