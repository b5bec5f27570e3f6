"""A client's connection, in the three protocols of the applications. Every wait ends after TIMEOUT seconds."""

import socket
from collections.abc import Sequence
from typing import BinaryIO, Self

from tests.integration.patience import patient

TIMEOUT = patient(10.0)

Reply = bytes | int | None | list["Reply"]


class Session:
    """One TCP connection. Its methods raise OSError when it is reset or silent, EOFError when it was closed."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self._reader: BinaryIO = connection.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    @property
    def own_address(self) -> str:
        return str(self.socket.getsockname()[0])

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> str:
        line = self._reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError(f"the connection was closed after {line!r}")
        return line.rstrip(b"\r\n").decode()

    def ask(self, line: str) -> str:
        """A line for the Python server, and its answer."""
        self.send(line.encode() + b"\n")
        return self.line()

    def redis(self, *words: str) -> Reply:
        """A command for redis, and its reply. Raises RuntimeError for an error reply."""
        self.send_redis(words)
        return self.redis_reply()

    def send_redis(self, words: Sequence[str]) -> None:
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            data = word.encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
        self.send(b"".join(parts))

    def redis_reply(self) -> Reply:
        head = self.line()
        kind, rest = head[:1], head[1:]
        match kind:
            case "+":
                return rest.encode()
            case ":":
                return int(rest)
            case "$":
                return None if int(rest) < 0 else self.exactly(int(rest) + 2)[:-2]
            case "*":
                return [self.redis_reply() for _ in range(int(rest))]
            case _:
                raise RuntimeError(f"redis says {head!r}")

    def get(self, path: str = "/") -> str:
        """The body of a page from nginx."""
        self.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        return self.page()

    def page(self) -> str:
        """The body that comes next. Raises RuntimeError unless the status is 200."""
        status, length = self.line(), 0
        while header := self.line():
            name, _, value = header.partition(":")
            if name.lower() == "content-length":
                length = int(value)
        body = self.exactly(length).decode()
        if status.split()[1] != "200":
            raise RuntimeError(f"nginx says {status!r}: {body}")
        return body

    def exactly(self, count: int) -> bytes:
        """The next bytes, all of them."""
        data = self._reader.read(count)
        if len(data) < count:
            raise EOFError(f"the connection was closed after {len(data)} of {count} bytes")
        return data
