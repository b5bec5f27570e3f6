"""nf_tables by netlink: only the messages that a ConnectionLock needs.

Owns their encoding and the transaction that carries them. Not the nft program: starting it takes 5
to 10 ms, it must be installed, and its tables stay when we die. A table made through a socket of
ours is owned by that socket and removed with it, however this process ends.

Source of facts: include/uapi/linux/netfilter/{nfnetlink,nf_tables,nf_tables_compat}.h, net/netfilter/nfnetlink.c.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from zeropod.kernel import netlink

NETLINK_NETFILTER = 12
_NFPROTO_INET = 1
_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_OWNER = 2  # NFT_TABLE_F_OWNER
_NESTED = netlink.NLA_F_NESTED


class _Kind(IntEnum):
    NEWTABLE = 0
    DELTABLE = 2
    NEWCHAIN = 3
    NEWRULE = 6
    NEWSET = 9
    NEWSETELEM = 12
    DELSETELEM = 14


class Hook(IntEnum):
    """Where on a packet's path a chain sees it."""

    PREROUTING = 0
    OUTPUT = 3


class Base(IntEnum):
    """The header that payload()'s offset counts from."""

    NETWORK = 1
    TRANSPORT = 2


class Meta(IntEnum):
    """Packet properties that meta() can load, one byte each."""

    NFPROTO = 15
    L4PROTO = 16


@dataclass(frozen=True, slots=True)
class Change:
    kind: int
    flags: int
    attributes: bytes


def new_table(table: str) -> Change:
    """Create a table of the inet family (IPv4 and IPv6) that is removed with the socket which sends this."""
    attributes = _text(1, table) + _u32(2, _OWNER)
    return Change(_Kind.NEWTABLE, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, attributes)


def delete_table(table: str) -> Change:
    """Remove a table with all that is in it."""
    return Change(_Kind.DELTABLE, 0, _text(1, table))


def new_chain(table: str, chain: str, hook: Hook, priority: int) -> Change:
    """Create a chain of type filter at a hook; lower priorities run first. Packets pass by default."""
    where = netlink.attribute(4 | _NESTED, _u32(1, hook) + _u32(2, priority))
    attributes = _text(1, table) + _text(3, chain) + where + _text(7, "filter")
    return Change(_Kind.NEWCHAIN, netlink.NLM_F_CREATE, attributes)


def new_set(table: str, name: str, number: int, key_type: int, key_length: int) -> Change:
    """Create an empty set; `number` identifies it in this transaction, `key_type` is for nft(8)'s listing."""
    attributes = (
        _text(1, table) + _text(2, name) + _u32(3, 0) + _u32(4, key_type) + _u32(5, key_length) + _u32(10, number)
    )
    return Change(_Kind.NEWSET, netlink.NLM_F_CREATE, attributes)


def add_elements(table: str, name: str, keys: Sequence[bytes]) -> Change:
    """Add keys to a set, ignoring those already in it."""
    return Change(_Kind.NEWSETELEM, netlink.NLM_F_CREATE, _elements(table, name, keys))


def delete_elements(table: str, name: str, keys: Sequence[bytes]) -> Change:
    """Remove keys from a set. Raises FileNotFoundError in commit() if one is not in it."""
    return Change(_Kind.DELSETELEM, 0, _elements(table, name, keys))


def new_rule(table: str, chain: str, expressions: Sequence[bytes]) -> Change:
    """Append a rule: its expressions run in order until one does not match."""
    listed = netlink.attribute(4 | _NESTED, b"".join(_item(expression) for expression in expressions))
    attributes = _text(1, table) + _text(2, chain) + listed
    return Change(_Kind.NEWRULE, netlink.NLM_F_CREATE | netlink.NLM_F_APPEND, attributes)


# Registers are numbered as the 32-bit ones are, 8 to 23 (NFT_REG32_00 to NFT_REG32_15).


def meta(what: Meta, register: int) -> bytes:
    """Load a property of the packet."""
    return _expression("meta", _u32(1, register) + _u32(2, what))


def payload(base: Base, offset: int, length: int, register: int) -> bytes:
    """Load bytes of the packet into `register` and, four bytes each, those that follow."""
    return _expression("payload", _u32(1, register) + _u32(2, base) + _u32(3, offset) + _u32(4, length))


def equals(register: int, value: bytes) -> bytes:
    """Continue with the rule only if the register holds `value`."""
    data = netlink.attribute(3 | _NESTED, netlink.attribute(1, value))
    return _expression("cmp", _u32(1, register) + _u32(2, 0) + data)


def in_set(name: str, number: int, register: int) -> bytes:
    """Continue with the rule only if the key that starts at `register` is in the set."""
    return _expression("lookup", _text(1, name) + _u32(2, register) + _u32(4, number))


def queue(number: int) -> bytes:
    """Pass the packet to the NFQUEUE of that number; the kernel drops it if no process has bound that."""
    return _expression("queue", netlink.attribute(1, struct.pack(">H", number)))


def xtables_queue(number: int) -> bytes:
    """Pass the packet to an NFQUEUE by the xtables target, for a kernel built without nf_tables' own."""
    info = struct.pack("=H6x", number)  # struct xt_NFQ_info, aligned to eight bytes
    return _expression("target", _text(1, "NFQUEUE") + _u32(2, 0) + netlink.attribute(3, info))


def drop() -> bytes:
    verdict = netlink.attribute(2 | _NESTED, _u32(1, 0))
    return _expression("immediate", _u32(1, 0) + netlink.attribute(2 | _NESTED, verdict))


def commit(connection: netlink.Netlink, changes: Sequence[Change]) -> None:
    """Make all changes or none. Raises OSError with the first error that the kernel reports."""
    batch = struct.pack(">BBH", 0, 0, _SUBSYSTEM)
    requests = [(_BATCH_BEGIN, 0, batch)]
    for change in changes:
        body = struct.pack(">BBH", _NFPROTO_INET, 0, 0) + change.attributes
        requests.append((_SUBSYSTEM << 8 | change.kind, change.flags, body))
    # The last one's acknowledgement comes after the commit.
    kind, flags, body = requests[-1]
    requests[-1] = (kind, flags | netlink.NLM_F_ACK, body)
    requests.append((_BATCH_END, 0, batch))
    connection.transact(requests)


def _expression(name: str, attributes: bytes) -> bytes:
    return _text(1, name) + netlink.attribute(2 | _NESTED, attributes)


def _elements(table: str, name: str, keys: Sequence[bytes]) -> bytes:
    items = b"".join(_item(netlink.attribute(1 | _NESTED, netlink.attribute(1, key))) for key in keys)
    return _text(1, table) + _text(2, name) + netlink.attribute(3 | _NESTED, items)


def _item(value: bytes) -> bytes:
    return netlink.attribute(1 | _NESTED, value)


def _text(kind: int, text: str) -> bytes:
    return netlink.attribute(kind, text.encode() + b"\0")


def _u32(kind: int, value: int) -> bytes:
    return netlink.attribute(kind, struct.pack(">i" if value < 0 else ">I", value))
