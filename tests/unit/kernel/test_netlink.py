"""Netlink's framing: what goes in comes out, and no bytes whatsoever get past the checks."""

import contextlib
import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import netlink

KINDS = st.integers(0, 0x3FFF)


@given(st.lists(st.tuples(KINDS, st.binary(max_size=40))))
def test_attributes_come_back_as_they_were_written(written: list[tuple[int, bytes]]) -> None:
    data = b"".join(netlink.attribute(kind, value) for kind, value in written)
    assert len(data) % 4 == 0
    assert list(netlink.attributes(data)) == written


def test_the_nested_flag_is_no_part_of_an_attributes_kind() -> None:
    data = netlink.attribute(7 | netlink.NLA_F_NESTED, b"")
    assert list(netlink.attributes(data)) == [(7, b"")]


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=40))))
def test_messages_of_one_datagram_are_told_apart(written: list[tuple[int, int, bytes]]) -> None:
    data = b"".join(netlink.encode(kind, 5, sequence, body) for kind, sequence, body in written)
    found = [(message.kind, message.sequence, message.body) for message in netlink.messages(data)]
    assert found == written


@given(st.binary(max_size=200))
def test_random_bytes_are_either_parsed_or_refused(data: bytes) -> None:
    for parse in (netlink.messages, netlink.attributes):
        with contextlib.suppress(ValueError):
            list(parse(data))


def test_a_message_longer_than_its_datagram_is_refused() -> None:
    data = netlink.encode(1, 0, 0, b"12345678")
    with pytest.raises(ValueError, match="a message of 24 bytes in 20"):
        list(netlink.messages(data[:-4]))


def test_an_error_message_raises_what_it_says() -> None:
    with pytest.raises(PermissionError, match="request 42"):
        netlink.raise_error(struct.pack("=i", -errno.EPERM), 42)


@pytest.mark.parametrize("body", [b"", struct.pack("=i", 0), struct.pack("=i", 0) + b"the request"])
def test_an_acknowledgement_raises_nothing(body: bytes) -> None:
    netlink.raise_error(body, 42)
