"""Namespaces: in and back again, pinned and gone."""

import os
import socket
import threading
from pathlib import Path

import pytest
from tests.integration.kernel.conftest import Network

from zeropod.kernel import namespace

HERE = "/proc/thread-self/ns/net"


def test_the_thread_is_inside_and_then_back(network: Network) -> None:
    home = os.stat(HERE).st_ino
    with namespace.entered(network.path):
        assert namespace.same(HERE, network.path)
        assert socket.if_nameindex() == [(1, "lo")]
    assert os.stat(HERE).st_ino == home


def test_an_error_inside_does_not_keep_the_thread_there(network: Network) -> None:
    home = os.stat(HERE).st_ino
    with pytest.raises(ZeroDivisionError), namespace.entered(network.path):
        raise ZeroDivisionError
    assert os.stat(HERE).st_ino == home


def test_other_threads_stay_where_they_are(network: Network) -> None:
    found: list[bool] = []
    with namespace.entered(network.path):
        thread = threading.Thread(target=lambda: found.append(namespace.same(HERE, network.path)))
        thread.start()
        thread.join()
    # A thread started inside begins inside; one that was there before does not move.
    assert found == [True]
    assert not namespace.same("/proc/self/ns/net", network.path)


def test_entering_by_descriptor_is_the_same(network: Network) -> None:
    fd = os.open(network.path, os.O_RDONLY)
    try:
        with namespace.entered(fd):
            assert namespace.same(HERE, network.path)
            assert namespace.same(fd, network.path)
    finally:
        os.close(fd)


def test_what_is_no_namespace_is_an_error_and_nothing_moves(tmp_path: Path) -> None:
    home = os.stat(HERE).st_ino
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="setns"), namespace.entered(tmp_path / "file"):
        pytest.fail("entered a plain file")
    assert os.stat(HERE).st_ino == home


def test_loopback_works_in_a_new_namespace(network: Network) -> None:
    pair = network.pair()
    pair.client.sendall(b"hello")
    assert pair.server.recv(5) == b"hello"


def test_sysctls_are_those_of_the_namespace(network: Network) -> None:
    name = "net/ipv4/tcp_migrate_req"
    place = Path("/proc/sys", name)
    before = place.read_text()
    namespace.set_sysctl(network.path, name, "1")
    with namespace.entered(network.path):
        assert place.read_text() == "1\n"
    assert place.read_text() == before


def test_a_sysctl_that_is_not_there_is_named(network: Network) -> None:
    with pytest.raises(FileNotFoundError, match="net/nothing"):
        namespace.set_sysctl(network.path, "net/nothing", "1")


def test_a_path_in_use_is_an_error_and_stays_as_it_was(network: Network) -> None:
    with pytest.raises(FileExistsError):
        namespace.create_pinned(network.path)
    with namespace.entered(network.path):
        pass


def test_unpinning_twice_or_what_was_never_pinned_is_no_error(tmp_path: Path) -> None:
    namespace.create_pinned(tmp_path / "net")
    namespace.unpin(tmp_path / "net")
    namespace.unpin(tmp_path / "net")
    (tmp_path / "file").touch()
    namespace.unpin(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
