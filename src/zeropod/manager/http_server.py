"""A small HTTP/1.1 server: receives requests without bodies, and sends the responses of a function.

h11 implements the protocol; this module limits clients: their number, the time of each, and the size of a request's
head.
"""

import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import h11
import trio

log = logging.getLogger(__name__)

CLIENTS = 500
"""Most connections at a time; further ones are closed."""
BACKLOG = 100
PATIENCE = 90.0
"""Seconds for a client to send its next request and read the response: longer than scrapers wait between two."""
MAX_HEAD = 16 << 10
"""Most bytes of a request's head."""
PLAIN = "text/plain; charset=utf-8"

Address = tuple[str, int]
Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    """As it was sent: no served name needs quoting."""
    query: str
    headers: dict[str, str]
    """Headers by lower-case names; values are decoded byte by byte (Latin-1)."""


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    kind: str
    body: bytes | Iterable[bytes]
    """In pieces, if the whole would be large."""
    headers: Iterable[Header] = field(default=())


Answer = Callable[[Request], Response]


def plain(status: int, text: str) -> Response:
    """Return a response of plain text."""
    return Response(status, PLAIN, text.encode())


def address(text: str) -> Address:
    """Return host and port of 0.0.0.0:8080, [::]:8080 or :8080. Raises ValueError for any other text."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("an address and a port such as 0.0.0.0:8080 or [::]:8080")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)


def bind(addresses: Iterable[Address]) -> list[socket.socket]:
    """Return listening sockets. Raises OSError that names the address; then none is open."""
    bound: list[socket.socket] = []
    try:
        for host, port in addresses:
            made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            bound.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                made.bind((host, port))
                made.listen(BACKLOG)
            except OSError as error:
                raise OSError(error.errno, error.strerror or str(error), f"{host}:{port}") from error
    except BaseException:  # on any failure: none stays open
        for made in bound:
            made.close()
        raise
    return bound


def url(listening: socket.socket) -> str:
    """Return the URL of a listening socket on this machine."""
    host, port, *_ = listening.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(sockets: Iterable[socket.socket], answer: Answer) -> None:
    """Serve on these sockets, taking ownership of them, until cancelled."""
    async with trio.open_nursery() as nursery:
        clients = trio.CapacityLimiter(CLIENTS)
        for each in sockets:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(each))
            nursery.start_soon(trio.serve_listeners, partial(_serve, answer, clients), [listener])


async def _serve(answer: Answer, clients: trio.CapacityLimiter, stream: trio.SocketStream) -> None:
    """Serve the requests of one client."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    async with stream:
        try:
            clients.acquire_on_behalf_of_nowait(stream)
        except trio.WouldBlock:
            return
        try:
            while True:
                with trio.fail_after(PATIENCE):
                    request = await _request(connection, stream)
                    if request is None:
                        return
                    await _respond(connection, stream, request.method, answer(request))
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return
                connection.start_next_cycle()
        except (trio.TooSlowError, trio.BrokenResourceError, h11.ProtocolError):
            return  # the client's own fault
        except Exception:  # no request may end the server for all others
            log.exception("cannot answer a request")
        finally:
            clients.release_on_behalf_of(stream)


async def _request(connection: h11.Connection, stream: trio.SocketStream) -> Request | None:
    """Return the next request, ignoring its body; None after the last."""
    request = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(MAX_HEAD)))
        elif isinstance(event, h11.Request):
            path, _, query = event.target.decode("latin-1").partition("?")
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
            request = Request(event.method.decode("latin-1"), path, query, headers)
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif not isinstance(event, h11.Data):
            return None


async def _respond(connection: h11.Connection, stream: trio.SocketStream, method: str, response: Response) -> None:
    headers: list[Header] = [(b"Content-Type", response.kind.encode()), *response.headers]
    pieces = response.body
    if isinstance(pieces, bytes):
        # A 304 describes a body that it does not contain.
        headers += [(b"Content-Length", b"%d" % len(pieces))] if response.status != 304 else []
        pieces = (pieces,)
    waiting = connection.send(h11.Response(status_code=response.status, headers=headers)) or b""
    for piece in () if method == "HEAD" else pieces:
        waiting += connection.send(h11.Data(data=piece)) or b""
        # Each piece is one system call.
        if len(waiting) >= 1 << 15:
            await stream.send_all(waiting)
            waiting = b""
    await stream.send_all(waiting + (connection.send(h11.EndOfMessage()) or b""))
