"""The clients of the demo: enough of RESP and HTTP to time an answer's first byte from outside of the pod.

Every wait is bounded by TIMEOUT. What is refused, reset or late is the OSError that it is; an answer that makes no
sense is a ValueError.
"""

import socket
import time
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

TIMEOUT = 15.0
"""Seconds for a connection and for an answer."""

Value = str | int | list["Value"] | None

_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class Timed(Generic[_V]):
    value: _V
    first_byte: float
    """Seconds from the first thing that the client did, connecting where it connected, to the answer's first byte."""


class Redis:
    """One connection to a redis server, opened at once."""

    def __init__(self, host: str, port: int = 6379) -> None:
        self._socket = socket.create_connection((host, port), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._socket.close()

    def timed(self, *words: str, since: float | None = None) -> Timed[Value]:
        """Send a command; the time runs from `since` (time.perf_counter), or from the sending."""
        started = time.perf_counter() if since is None else since
        parts = [word.encode() for word in words]
        self._socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        self._answers.peek(1)
        first_byte = time.perf_counter() - started
        return Timed(self._read(), first_byte)

    def ask(self, *words: str) -> Value:
        return self.timed(*words).value

    def text(self, *words: str) -> str:
        return str(self.ask(*words))

    @property
    def address(self) -> str:
        """This end of the connection, as redis writes addresses."""
        host, port = self._socket.getsockname()[:2]
        return f"{host}:{port}"

    def seen_as(self) -> str:
        """This end of the connection, as redis sees it."""
        return self._of(self.text("CLIENT", "INFO"), "addr", "=", " ")

    def run_id(self) -> str:
        """What redis has given itself when it was started."""
        return self._of(self.text("INFO", "server"), "run_id", ":", "\r\n")

    @staticmethod
    def _of(text: str, key: str, equals: str, separator: str) -> str:
        return dict(entry.partition(equals)[::2] for entry in text.split(separator))[key]

    def _read(self) -> Value:
        line = self._answers.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("redis closed the connection")
        kind, rest = line[:1], line[1:-2].decode()
        match kind:
            case b"+":
                return rest
            case b":":
                return int(rest)
            case b"$":
                size = int(rest)
                return None if size < 0 else self._answers.read(size + 2)[:-2].decode(errors="replace")
            case b"*":
                return [self._read() for _ in range(int(rest))]
        raise ValueError(f"redis answered {line.decode(errors='replace').strip()!r}")


@dataclass(frozen=True, slots=True)
class Visit:
    """What a client of a new connection was answered, and whether its address had arrived."""

    answer: Timed[Value]
    address: str
    seen_as: str


def visit_redis(host: str, *words: str) -> Visit:
    """A command on a connection of its own, timed from before the connection."""
    started = time.perf_counter()
    with Redis(host) as client:
        answer = client.timed(*words, since=started)
        return Visit(answer, client.address, client.seen_as())


@dataclass(frozen=True, slots=True)
class Page:
    status: int
    body: str


def get(host: str, path: str = "/", port: int = 80) -> Timed[Page]:
    """GET over a new connection, timed from before the connection."""
    started = time.perf_counter()
    with socket.create_connection((host, port), TIMEOUT) as connection, connection.makefile("rb") as answer:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer.peek(1)
        first_byte = time.perf_counter() - started
        head, _, body = answer.read().partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/"):
        raise ValueError(f"no HTTP answer: {head[:80]!r}")
    return Timed(Page(int(words[1]), body.decode(errors="replace")), first_byte)
