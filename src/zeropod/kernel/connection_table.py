"""The nf_tables table that stops the packets of chosen connections, for IPv4 and IPv6.

Owns how a connection is encoded as a key, and the chains, sets and rules that compare packets with
such keys. The caller chooses what happens to a matching packet, and creates and removes the table.

- Incoming packets are stopped at prerouting. At the input hook the kernel has already attached them
  to the old socket (early demultiplexing), and would later deliver them to it although it is dead.
- After NAT at prerouting, before NAT at output: addresses are those that the socket has.
"""

import socket
import struct
from typing import NamedTuple

from zeropod.kernel import nftables
from zeropod.kernel.nftables import Base, Change, Hook, Meta

_AFTER_NAT, _BEFORE_NAT = 300, -300
_REGISTER = 8
_TCP = bytes([socket.IPPROTO_TCP])


class Connection(NamedTuple):
    """An established connection as the pod's socket sees it: (address, port) of both ends."""

    local: tuple[str, int]
    remote: tuple[str, int]


class Family(NamedTuple):
    """What differs between IPv4 and IPv6. A key is remote and local address, remote and local port."""

    name: str
    number: int
    protocol: int  # NFPROTO_
    source: int  # offset in the IP header; the destination follows
    length: int  # of an address, bytes
    key_type: int

    @property
    def key_length(self) -> int:
        return 2 * self.length + 8  # ports fill a register of four bytes each


# nft's data types: 7 ipv4_addr, 8 ipv6_addr, 13 inet_service; six bits each when concatenated.
FAMILIES = (
    Family("ipv4", 1, 2, 12, 4, ((7 << 6 | 7) << 6 | 13) << 6 | 13),
    Family("ipv6", 2, 10, 8, 16, ((8 << 6 | 8) << 6 | 13) << 6 | 13),
)


def encode(connection: Connection) -> bytes:
    """Return the set's key for a connection; its length tells the address family."""
    (local, local_port), (remote, remote_port) = connection
    family = socket.AF_INET6 if ":" in local else socket.AF_INET
    try:
        addresses = socket.inet_pton(family, remote) + socket.inet_pton(family, local)
    except OSError as error:
        raise ValueError(f"cannot lock a connection from {remote!r} to {local!r}: {error}") from None
    return addresses + struct.pack(">HxxHxx", remote_port, local_port)


def definition(table: str, verdict: bytes) -> list[Change]:
    """Return the table with empty sets: packets in none of them pass, others get `verdict`."""
    changes = [
        nftables.new_table(table),
        nftables.new_chain(table, "incoming", Hook.PREROUTING, _AFTER_NAT),
        nftables.new_chain(table, "outgoing", Hook.OUTPUT, _BEFORE_NAT),
    ]
    for family in FAMILIES:
        changes.append(nftables.new_set(table, family.name, family.number, family.key_type, family.key_length))
        for chain, incoming in (("incoming", True), ("outgoing", False)):
            rule = [*_match(family, incoming), verdict]
            changes.append(nftables.new_rule(table, chain, rule))
    return changes


def _match(family: Family, incoming: bool) -> list[bytes]:
    """Return the expressions that match a packet of a locked connection; the verdict follows them."""
    source, destination = family.source, family.source + family.length
    addresses = (source, destination) if incoming else (destination, source)
    ports = (0, 2) if incoming else (2, 0)
    registers = family.length // 4
    return [
        nftables.meta(Meta.NFPROTO, _REGISTER),
        nftables.equals(_REGISTER, bytes([family.protocol])),
        nftables.meta(Meta.L4PROTO, _REGISTER),
        nftables.equals(_REGISTER, _TCP),
        nftables.payload(Base.NETWORK, addresses[0], family.length, _REGISTER),
        nftables.payload(Base.NETWORK, addresses[1], family.length, _REGISTER + registers),
        nftables.payload(Base.TRANSPORT, ports[0], 2, _REGISTER + 2 * registers),
        nftables.payload(Base.TRANSPORT, ports[1], 2, _REGISTER + 2 * registers + 1),
        nftables.in_set(family.name, family.number, _REGISTER),
    ]
