"""Reading what sock_diag sends, without a kernel."""

import contextlib
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import netlink, sock_diag
from zeropod.kernel.sock_diag import TcpState

INFO = 2
PORTS = st.integers(0, 0xFFFF)
NUMBERS = st.integers(0, 0xFFFFFFFF)


def message(
    family: int,
    local: bytes,
    remote: bytes,
    *,
    state: int = TcpState.ESTABLISHED,
    ports: tuple[int, int] = (80, 40000),
    numbers: tuple[int, int, int, int] = (0, 0, 0, 1),
    info: bytes | None = None,
) -> bytes:
    """A struct inet_diag_msg, written down from include/uapi/linux/inet_diag.h."""
    header = struct.pack("=BBBB", family, state, 0, 0)
    identity = struct.pack(">HH", *ports) + local.ljust(16, b"\0") + remote.ljust(16, b"\0") + bytes(12)
    body = header + identity + struct.pack("=5I", 0, *numbers)
    return body + (netlink.attribute(INFO, info) if info is not None else b"")


def tcp_info(sent_ms: int, received_ms: int, received: int) -> bytes:
    info = bytearray(232)
    struct.pack_into("=I", info, 44, sent_ms)
    struct.pack_into("=I", info, 52, received_ms)
    struct.pack_into("=Q", info, 128, received)
    return bytes(info)


@given(st.ip_addresses(), st.ip_addresses(), st.tuples(PORTS, PORTS), st.tuples(*[NUMBERS] * 4))
def test_every_field_is_read_from_its_place(
    local: IPv4Address | IPv6Address,
    remote: IPv4Address | IPv6Address,
    ports: tuple[int, int],
    numbers: tuple[int, int, int, int],
) -> None:
    if local.version != remote.version or "::ffff:" in local.exploded + remote.exploded:
        return
    family = socket.AF_INET if local.version == 4 else socket.AF_INET6
    found = sock_diag.parse(message(family, local.packed, remote.packed, ports=ports, numbers=numbers))
    if local.version == 4:
        assert (found.local, found.remote) == ((str(local), ports[0]), (str(remote), ports[1]))
    shown = local.ipv4_mapped or local if isinstance(local, IPv6Address) else local
    assert ip_address(found.local[0]) == shown
    assert (found.receive_queue, found.send_queue, found.uid, found.inode) == numbers
    assert found.last_data_received_ms is None


def test_tcp_info_says_when_data_last_came_and_went() -> None:
    body = message(socket.AF_INET, b"\x7f\0\0\1", b"\x7f\0\0\1", info=tcp_info(7, 1234, 1 << 33))
    found = sock_diag.parse(body)
    assert (found.last_data_sent_ms, found.last_data_received_ms) == (7, 1234)
    assert found.bytes_received == 1 << 33


def test_ipv4_on_an_ipv6_socket_is_shown_as_ipv4() -> None:
    mapped = bytes(10) + b"\xff\xff" + b"\x0a\0\0\1"
    found = sock_diag.parse(message(socket.AF_INET6, mapped, mapped))
    assert (found.family, found.local) == (socket.AF_INET6, ("10.0.0.1", 80))


def test_a_listeners_zeroes_do_not_look_like_data_just_now() -> None:
    body = message(socket.AF_INET6, bytes(16), bytes(16), state=TcpState.LISTEN, info=bytes(232))
    found = sock_diag.parse(body)
    assert (found.state, found.local) == (TcpState.LISTEN, ("::", 80))
    assert found.last_data_received_ms is None


@given(st.binary(max_size=400))
def test_random_bytes_are_either_parsed_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        sock_diag.parse(data)


@given(st.binary(max_size=200), st.sampled_from([socket.AF_INET, socket.AF_INET6]))
def test_random_attributes_are_either_parsed_or_refused(data: bytes, family: int) -> None:
    with contextlib.suppress(ValueError):
        sock_diag.parse(message(family, bytes(16), bytes(16)) + data)


def test_an_unknown_address_family_is_refused() -> None:
    with pytest.raises(ValueError, match="address family 1"):
        sock_diag.parse(message(socket.AF_UNIX, b"", b""))
