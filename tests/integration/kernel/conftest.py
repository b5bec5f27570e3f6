"""A network namespace for each test, and TCP connections in it."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from zeropod.kernel import namespace

Result = TypeVar("Result")
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@dataclass(frozen=True, slots=True)
class Pair:
    """A connection with both its ends in the namespace."""

    listener: socket.socket
    client: socket.socket
    server: socket.socket


class Network:
    """The namespace, entered for each call that makes a socket. They are closed with the test."""

    def __init__(self, path: Path, owned: ExitStack) -> None:
        self.path = path
        self._owned = owned

    def run(self, call: Callable[[], Result]) -> Result:
        with namespace.entered(self.path):
            return call()

    def listen(self, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        return self.own(self.run(lambda: socket.create_server((LOOPBACK[family], port), family=family)))

    def connect(self, port: int, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        return self.own(self.run(lambda: socket.create_connection((LOOPBACK[family], port), timeout=5)))

    def pair(self, family: socket.AddressFamily = socket.AF_INET, port: int = 0) -> Pair:
        return self.join(self.listen(port, family))

    def join(self, listener: socket.socket) -> Pair:
        return self.join_at(listener, listener.getsockname()[1])

    def join_at(self, listener: socket.socket, port: int, family: socket.AddressFamily | None = None) -> Pair:
        """Connects to a port and accepts on `listener`, which must be the one that gets it."""
        client = self.connect(port, family or listener.family)
        listener.settimeout(5)
        server = self.own(listener.accept()[0])
        server.settimeout(5)
        return Pair(listener, client, server)

    def own(self, sock: socket.socket) -> socket.socket:
        return self._owned.enter_context(sock)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    path = tmp_path / "net"
    namespace.create_pinned(path)
    try:
        with ExitStack() as owned:
            yield Network(path, owned)
    finally:
        namespace.unpin(path)
