"""Whose socket is at the other end of a connection, where that is a process of this node.

The kernel knows the socket (sock_diag), /proc the processes that have it open. Only processes of certain names are
looked at, so that a look takes a millisecond on a node with many.

Source of facts: include/uapi/linux/{sock_diag,inet_diag}.h, net/ipv4/inet_diag.c (inet_diag_find_one_icsk).
"""

import socket
import struct
from collections.abc import Collection, Iterator
from pathlib import Path

from zeropod.kernel import netlink, sock_diag, sockets

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=BBxxI2s2s16s16sIQ")  # struct inet_diag_req_v2
_ALL_STATES, _ANY_COOKIE = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF

Address = tuple[str, int]


class LocalPeers:
    """Opens on creation, in the network namespace of the calling thread. Raises OSError."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(name.encode()[:15].decode(errors="replace") for name in names)
        self._netlink = netlink.Netlink(_NETLINK_SOCK_DIAG)
        self._last: list[int] = []

    def close(self) -> None:
        self._netlink.close()

    def is_named(self, own: Address, other: Address) -> bool:
        """Whether the connection from `own` (here) to `other` is one of a process with one of the names.

        False where it is nobody's: it came from elsewhere through this node, or was closed.
        """
        inode = self._inode(own, other)
        return bool(inode) and any(_has(pid, inode) for pid in self._candidates())

    def _inode(self, own: Address, other: Address) -> int:
        family = socket.AF_INET6 if ":" in own[0] else socket.AF_INET
        addresses = (address.partition("%")[0] for address, _ in (own, other))
        source, target = (socket.inet_pton(family, address).ljust(16, b"\0") for address in addresses)
        ports = own[1].to_bytes(2, "big"), other[1].to_bytes(2, "big")
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, _ALL_STATES, *ports, source, target, 0, _ANY_COOKIE)
        try:
            kind, body = self._netlink.ask(_SOCK_DIAG_BY_FAMILY, request)
        except FileNotFoundError:
            return 0
        return sock_diag.parse(body).inode if kind == _SOCK_DIAG_BY_FAMILY else 0

    def _candidates(self) -> Iterator[int]:
        """Processes of these names, those that were found the last time first."""
        known = [pid for pid in self._last if _comm(pid) in self._names]
        yield from known
        self._last = [int(path.name) for path in Path("/proc").glob("[0-9]*") if _comm(int(path.name)) in self._names]
        yield from (pid for pid in self._last if pid not in known)


def _has(pid: int, inode: int) -> bool:
    return any(inode == found for _, found in sockets.sockets_of(pid))


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return ""
