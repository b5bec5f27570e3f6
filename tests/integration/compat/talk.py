"""How the applications are asked: every request is counted by the application, in its memory.

An `Answer` of two requests shows whether the process that answers is the one that was there before: the same token, and
a count that goes on. Every wait ends after TIMEOUT seconds.
"""

import http.client
import re
import socket
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, Self

import grpc  # type: ignore[import-untyped, unused-ignore]
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue
from tests.integration.patience import patient

TIMEOUT = patient(20.0)

COUNT = re.compile(r"(?P<token>\S+) (?P<count>\d+)\s*")


@dataclass(frozen=True, slots=True)
class Answer:
    """The token of the process that has answered, and how many requests it has had."""

    token: str
    count: int

    @property
    def next(self) -> "Answer":
        """What must come after it."""
        return Answer(self.token, self.count + 1)

    @classmethod
    def of(cls, text: str, pattern: re.Pattern[str] = COUNT) -> "Answer":
        found = pattern.fullmatch(text)
        if found is None:
            raise RuntimeError(f"the application says {text!r}")
        return cls(found["token"], int(found["count"]))


class Session(Protocol):
    """One connection. Raises OSError, EOFError or RuntimeError when it does not go on."""

    def ask(self) -> Answer: ...


Talk = Callable[[str, int], AbstractContextManager[Session]]
"""Opens a session with an address and a port. Raises as a session does."""


class Http:
    """A connection that is kept alive, and is not opened again behind our back."""

    def __init__(self, address: str, port: int, path: str, pattern: re.Pattern[str]) -> None:
        self._path, self._pattern = path, pattern
        self._connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT)
        self._connection.connect()
        self._connection.auto_open = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self) -> Answer:
        try:
            self._connection.request("GET", self._path)
            response = self._connection.getresponse()
            text = response.read().decode()
        except http.client.HTTPException as error:
            raise EOFError(f"the connection has ended: {error!r}") from error
        if response.status != 200:
            raise RuntimeError(f"the application says {response.status}: {text}")
        return Answer.of(text, self._pattern)


def http_counter(path: str = "/count", pattern: re.Pattern[str] = COUNT) -> Talk:
    """The way to ask an application that answers HTTP."""
    return lambda address, port: Http(address, port, path, pattern)


class Grpc:
    """One channel with one connection, which must not be made anew: then the count would not show it."""

    def __init__(self, address: str, port: int) -> None:
        self._channel = grpc.insecure_channel(f"{address}:{port}", [("grpc.enable_retries", 0)])
        self._states: list[grpc.ChannelConnectivity] = []
        self._channel.subscribe(self._states.append)
        self._count = self._channel.unary_unary(
            "/test.Counter/Count",
            request_serializer=Empty.SerializeToString,
            response_deserializer=StringValue.FromString,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def ask(self) -> Answer:
        try:
            answer = self._count(Empty(), timeout=TIMEOUT)
        except grpc.RpcError as error:
            raise EOFError(f"the call has failed: {error}") from error
        if self._states.count(grpc.ChannelConnectivity.READY) > 1:
            raise EOFError("the connection was made anew")
        return Answer.of(answer.value)


class Postgres:
    """PostgreSQL's protocol as far as a session needs it that runs one query again and again.

    https://www.postgresql.org/docs/current/protocol-message-formats.html
    """

    QUERY = "SELECT extract(epoch FROM pg_postmaster_start_time())::text, nextval('everybody'), nextval('mine')"

    def __init__(self, address: str, port: int) -> None:
        self._socket = socket.create_connection((address, port), TIMEOUT)
        self._socket.settimeout(TIMEOUT)
        self._stream = self._socket.makefile("rb")
        self._mine = 0
        start = b"\0\3\0\0user\0postgres\0\0"
        try:
            self._socket.sendall(struct.pack(">I", len(start) + 4) + start)
            self._rows()
            self._query("CREATE SEQUENCE IF NOT EXISTS everybody")
            self._query("CREATE TEMPORARY SEQUENCE mine")
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def ask(self) -> Answer:
        """Counts what is in the database, and makes sure that the session's own temporary data are there."""
        ((token, count, mine),) = self._query(self.QUERY)
        self._mine += 1
        if int(mine) != self._mine:
            raise RuntimeError(f"the session has counted {mine} requests instead of {self._mine}")
        return Answer(token, int(count))

    def _query(self, text: str) -> list[list[str]]:
        data = text.encode() + b"\0"
        self._socket.sendall(b"Q" + struct.pack(">I", len(data) + 4) + data)
        return self._rows()

    def _rows(self) -> list[list[str]]:
        """All rows until the server is ready for a query."""
        rows: list[list[str]] = []
        while True:
            head = self._stream.read(5)
            if len(head) < 5:
                raise EOFError("PostgreSQL has closed the session")
            kind, length = struct.unpack(">cI", head)
            data = self._stream.read(length - 4)
            match kind:
                case b"Z":
                    return rows
                case b"E":
                    raise RuntimeError(f"PostgreSQL says {data.decode().split(chr(0))}")
                case b"D":
                    rows.append(_columns(data))


def _columns(data: bytes) -> list[str]:
    found, at = [], 2
    for _ in range(struct.unpack_from(">H", data)[0]):
        (length,) = struct.unpack_from(">i", data, at)
        found.append(data[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return found
