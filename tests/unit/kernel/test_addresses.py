"""rtnetlink's messages about addresses."""

import socket
import struct
from contextlib import suppress

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import netlink
from zeropod.kernel.addresses import NodeAddresses, parse

HEADER = struct.Struct("=BBBBI")
OWN, OTHER = b"\x0a\0\0\1", b"\x0a\0\0\2"


def message(family: int, *attributes: tuple[int, bytes]) -> bytes:
    return HEADER.pack(family, 24, 0, 0, 7) + b"".join(netlink.attribute(*each) for each in attributes)


def test_on_a_point_to_point_interface_the_own_end_is_taken() -> None:
    assert parse(message(socket.AF_INET, (1, OTHER), (2, OWN))) == ("10.0.0.1", 7)


def test_ipv6_has_but_one_end() -> None:
    assert parse(message(socket.AF_INET6, (1, bytes(15) + b"\1"))) == ("::1", 7)


@pytest.mark.parametrize("body", [message(socket.AF_INET), message(socket.AF_INET, (1, b"\1")), message(99, (1, OWN))])
def test_what_is_no_address_is_none(body: bytes) -> None:
    assert parse(body) is None


@given(st.binary(max_size=64))
def test_whatever_comes_is_an_address_or_none_or_refused_as_malformed(body: bytes) -> None:
    with suppress(ValueError):
        parse(body)


async def test_closing_them_as_one_of_them_changes_is_not_an_error() -> None:
    async def close(when: socket.socket, addresses: NodeAddresses, scope: trio.CancelScope) -> None:
        await trio.lowlevel.wait_readable(when)
        scope.cancel()
        addresses.close()

    for _ in range(40):  # what has become ready at once runs in any order
        addresses = NodeAddresses()
        addresses._changes.close()
        addresses._changes, change = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        addresses._changes.setblocking(False)
        when, now = socket.socketpair()
        with change, when, now:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(addresses.changed)
                nursery.start_soon(close, when, addresses, nursery.cancel_scope)
                await trio.testing.wait_all_tasks_blocked()
                change.send(b"-")
                now.send(b"-")
