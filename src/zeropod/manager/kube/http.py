"""HTTP/1.1 over one stream: a request, then its response, whole or line by line; every read has a limit.

h11 implements the protocol; the caller provides the stream and all timeouts. Errors of the stream or the server are
raised as Unreachable, too long responses as TooLarge.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import h11
import trio

from zeropod.manager.kube.errors import TooLarge, Unreachable

MAX_HEAD = 64 << 10
"""Most bytes of status line and headers."""
MAX_BODY = 32 << 20
"""Most bytes of a response: the pods of a full node take about 5 MB."""
MAX_LINE = 4 << 20
"""Most bytes of one event of a watch: an object has at most 1.5 MiB in etcd."""
READ = 64 << 10

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a response."""

    status: int
    retry_after: float
    """Seconds; 0 if the server does not set it."""


class Connection:
    """A stream to a server, for one request after another."""

    def __init__(self, stream: trio.abc.Stream, host: str) -> None:
        self._stream = stream
        self._host = host
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._lines = deque[bytearray]()
        self._rest = bytearray()
        self.has_answered = False
        """Whether the last request has got at least the beginning of a response."""

    @property
    def is_reusable(self) -> bool:
        """Whether the response is complete, and the server keeps the connection."""
        return self._h11.our_state is h11.IDLE and self._h11.their_state is h11.IDLE

    async def aclose(self) -> None:
        """Close the stream at once, without TLS's close_notify."""
        await trio.aclose_forcefully(self._stream)

    async def ask(self, method: str, target: str, headers: Headers, body: bytes = b"") -> Head:
        """Send a request and return the beginning of its response; `body` or `lines` read the rest."""
        self.has_answered = False
        fields = [("Host", self._host), *headers]
        if body:
            fields.append(("Content-Length", str(len(body))))
        with _translated():
            sent = self._h11.send(h11.Request(method=method, target=target, headers=fields)) or b""
            sent += self._h11.send(h11.Data(data=body)) or b"" if body else b""
            sent += self._h11.send(h11.EndOfMessage()) or b""
            await self._stream.send_all(sent)
            while not isinstance(event := await self._next(), h11.Response):
                if not isinstance(event, h11.InformationalResponse):
                    raise Unreachable("the API server closed the connection without an answer")
        self.has_answered = True
        return Head(event.status_code, _retry_after(event))

    async def body(self, limit: int = MAX_BODY) -> bytes:
        """Return the rest of the response, after which the connection can be reused. Raises TooLarge."""
        whole = bytearray()
        while part := await self._part():
            whole += part
            if len(whole) > limit:
                raise TooLarge(f"the answer is longer than {limit} bytes")
        return bytes(whole)

    async def line(self, limit: int = MAX_LINE) -> bytes | None:
        """Return the next line of the response when it has arrived, None after the last. Raises TooLarge."""
        while not self._lines:
            part = await self._part()
            if not part:
                return None
            self._rest += part
            # Search only new data, or a long line in pieces would take quadratic time.
            if b"\n" in part:
                *lines, self._rest = self._rest.split(b"\n")
                self._lines.extend(lines)
            if len(self._rest) > limit:
                raise TooLarge(f"an event of a watch is longer than {limit} bytes")
        return bytes(self._lines.popleft())

    async def _part(self) -> bytes:
        """Return the next piece of the response, empty at its end."""
        with _translated():
            event = await self._next()
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if not isinstance(event, h11.EndOfMessage):
                raise Unreachable("the API server broke off in the middle of an answer")
            if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
                self._h11.start_next_cycle()
        return b""

    async def _next(self) -> object:
        while True:
            event = self._h11.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._h11.receive_data(bytes(await self._stream.receive_some(READ)))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (h11.ProtocolError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        text = str(error.__cause__ or error) or type(error).__name__
        raise Unreachable(f"the connection to the API server is lost: {text}") from error


def _retry_after(response: h11.Response) -> float:
    text = dict(response.headers).get(b"retry-after", b"")
    return float(text) if text.isdigit() else 0.0
