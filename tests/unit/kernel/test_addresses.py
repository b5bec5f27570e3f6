"""rtnetlink's messages about addresses."""

import socket
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import netlink
from zeropod.kernel.addresses import parse

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
