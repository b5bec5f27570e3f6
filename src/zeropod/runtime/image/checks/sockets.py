"""Checks of sockets: their kinds, unread data and peers."""

import socket
from collections.abc import Iterator

from zeropod.runtime.image.obstacle import Kind, Obstacle
from zeropod.runtime.image.snapshot import Snapshot, Socket

_FAMILIES = {socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET}
_PROTOCOLS: dict[int, set[int]] = {
    socket.SOCK_STREAM: {socket.IPPROTO_TCP},
    socket.SOCK_DGRAM: {socket.IPPROTO_UDP, 136, socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6},
}
"""The protocols that CRIU supports, by type; 136 is UDP-Lite."""
_KNOWN = {132: "SCTP", 262: "MPTCP", 33: "DCCP"}


def kinds(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find sockets other than TCP, UDP, raw, Unix, netlink and packet sockets, which CRIU does not support."""
    for each in snapshot.sockets:
        if not _is_known(each):
            protocol = _KNOWN.get(each.protocol, str(each.protocol))
            yield Kind.SOCKET_KIND.found(f"{each.holder}, family {_family(each.family)}, protocol {protocol}")


def _is_known(each: Socket) -> bool:
    if each.family in (socket.AF_INET, socket.AF_INET6):
        return each.type == socket.SOCK_RAW or each.protocol in _PROTOCOLS.get(each.type, set())
    return each.family in _FAMILIES


def _family(number: int) -> str:
    try:
        return socket.AddressFamily(number).name
    except ValueError:
        return str(number)


def waiting(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find unread data in netlink and UDP sockets, and pending socket errors: CRIU does not dump them."""
    for each in snapshot.sockets:
        if each.family == socket.AF_NETLINK and each.readable:
            yield Kind.NETLINK_PENDING.found(each.holder)
        if each.family in (socket.AF_INET, socket.AF_INET6) and each.type != socket.SOCK_STREAM:
            if each.unsent:
                yield Kind.CORKED.found(_place(each))
            if each.readable:
                yield Kind.DATAGRAMS.found(_place(each))
        if each.failed:
            yield Kind.RESET.found(each.holder)


def _place(each: Socket) -> str:
    return f"{each.holder}, {each.local}" if each.local else each.holder


def unix(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find Unix connections to processes outside of the container, which would be cut or cannot be dumped."""
    holders = {each.inode: each.holder for each in snapshot.sockets}
    for end in snapshot.unix:
        where = " ".join(filter(None, (holders.get(end.inode, ""), end.name)))
        if end.peer_is_foreign:
            yield Kind.UNIX_PEER.found(where)
        if end.pending_foreign:
            yield Kind.UNIX_PENDING.found(where)


CHECKS = (kinds, waiting, unix)
