"""What a held packet says about itself, and how its connection is found again."""

import contextlib
import socket
import struct
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import netlink, nfqueue
from zeropod.kernel.connection_table import FAMILIES, Connection, encode
from zeropod.kernel.nfqueue import Packet

PORTS = st.integers(0, 0xFFFF)


def packet(source: tuple[str, int], destination: tuple[str, int], data: bytes = b"", options: int = 12) -> bytes:
    """An IP packet with a TCP segment, checksums left out."""
    tcp = struct.pack(">HHII", source[1], destination[1], 1, 1)
    tcp += bytes([(20 + options) // 4 << 4, 0x18]) + bytes(6 + options) + data
    if ":" in source[0]:
        header = struct.pack(">IHBB", 6 << 28, len(tcp), socket.IPPROTO_TCP, 64)
        family = socket.AF_INET6
    else:
        header = struct.pack(">BBHIBBH", 0x45, 0, 20 + len(tcp), 0, 64, socket.IPPROTO_TCP, 0)
        family = socket.AF_INET
    return header + socket.inet_pton(family, source[0]) + socket.inet_pton(family, destination[0]) + tcp


def ends(version: Literal[4, 6]) -> st.SearchStrategy[tuple[tuple[str, int], tuple[str, int]]]:
    end = st.tuples(st.ip_addresses(v=version).map(str), PORTS)
    return st.tuples(end, end)


@given(st.one_of(ends(4), ends(6)))
def test_an_incoming_packet_has_the_key_of_its_connection(
    both: tuple[tuple[str, int], tuple[str, int]],
) -> None:
    remote, local = both
    key = encode(Connection(local, remote))
    assert Packet(1, packet(remote, local)).key(incoming=True) == key
    assert Packet(1, packet(local, remote)).key(incoming=False) == key


def test_a_keys_length_tells_the_address_family() -> None:
    lengths = [len(encode(Connection((host, 1), (host, 2)))) for host in ("127.0.0.1", "::1")]
    assert lengths == [family.key_length for family in FAMILIES]


@pytest.mark.parametrize(
    ("local", "remote"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("", "")]
)
def test_what_is_no_pair_of_addresses_is_refused(local: str, remote: str) -> None:
    with pytest.raises(ValueError, match="cannot lock a connection"):
        encode(Connection((local, 1), (remote, 2)))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("options", [0, 12, 40])
def test_data_is_told_from_a_bare_acknowledgement(host: str, options: int) -> None:
    assert Packet(1, packet((host, 1), (host, 2), b"x", options)).carries_data
    assert not Packet(1, packet((host, 1), (host, 2), b"", options)).carries_data


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_data_shows_in_the_first_bytes_of_a_large_packet(host: str) -> None:
    assert Packet(1, packet((host, 1), (host, 2), bytes(9000))[:128]).carries_data


@given(st.binary(max_size=120))
def test_random_bytes_have_no_data_or_a_key_of_some_family(data: bytes) -> None:
    held = Packet(1, data)
    assert isinstance(held.carries_data, bool)
    assert len(held.key(incoming=True)) in {0, *(family.key_length for family in FAMILIES)}


def test_a_message_of_the_queue_gives_id_and_packet() -> None:
    header = netlink.attribute(1, struct.pack(">IHB", 77, 0x0800, 0))
    found = nfqueue.parse(bytes(4) + header + netlink.attribute(10, b"the packet"))
    assert found == Packet(77, b"the packet")


@given(st.binary(max_size=120))
def test_a_random_message_is_either_parsed_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        nfqueue.parse(data)
