"""Find out whether an accepted connection is a probe, and answer it if so.

The connection is accepted in place of a sleeping application. Its data is only peeked at, so that the application can
still read all of it. Only a prober's process is waited for longer than `CLIENTS_PATIENCE`: with a protocol in which the
server speaks first, the client waits.

The request alone is not sufficient: only a prober's process is answered. And a prober's request may not be answerable
here: HTTPS, a request that is too large, or without a probe's User-Agent.
"""

import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto

import trio

from zeropod.activator.answer import UNIMPLEMENTED, answer
from zeropod.activator.classify import SETTINGS, ProbeKind, ProbeRequest, classify, without_acknowledgement
from zeropod.activator.connect import Announce, OurConnections, asked_for
from zeropod.activator.probe_results import ProbeCheck, ProbeResult, ProbeResults
from zeropod.activator.probe_sources import ProbeSources
from zeropod.kernel.lookup import Flow, FlowOrigin, Lookup
from zeropod.kernel.sock_diag import Address

log = logging.getLogger(__name__)

CLIENTS_PATIENCE = 0.5
"""Seconds in which a client has to send its request. The kubelet does so at once, and waits a second for a response."""

PROBERS_PATIENCE = 10.0
"""Further seconds for a prober's process, which always speaks first, but may be delayed on a busy node; and for a
closed connection, which will end."""

LAST_WORDS = 1.0
"""Seconds for the prober to read its response and close the connection."""

PEEKS_AT_ONCE = 4
"""Peeks without a pause between them: the most segments in which a probe arrives."""

PEEK_PAUSE = 0.01
"""Seconds between further peeks: a client that sends byte by byte costs one peek in that time."""

_CHUNK = 1 << 12  # bytes per read of data that is discarded

ACKNOWLEDGEMENT = 10.0
"""Seconds for an HTTP/2 client to acknowledge SETTINGS, which it must."""
_MUCH = 1 << 16  # bytes that it may send meanwhile


class Disposition(Enum):
    ANSWERED = auto()
    """A probe, which was answered or has gone."""
    NEEDS_APPLICATION = auto()
    """A probe that only the application can answer."""
    PASS_ON = auto()
    """A client's connection, for the application."""


@dataclass(frozen=True, slots=True)
class PendingProbe:
    """A complete probe request that waits for its response."""

    request: ProbeRequest
    data: bytes
    """Its bytes as received."""
    greeted: bool
    """Whether it was sent zeropod's SETTINGS."""


@dataclass(frozen=True, slots=True)
class Inspection:
    disposition: Disposition
    head: bytes = b""
    """Data read from the connection, to be passed on first."""
    pending: PendingProbe | None = None
    """For `ask`, instead of passing the connection on."""


_ANSWERED = Inspection(Disposition.ANSWERED)
_RESET = (ConnectionError, TimeoutError, trio.BrokenResourceError)


class Peeker:
    """Data that a connection has received, without consuming it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket
        self._looks = 0
        self.data = b""
        self.ended = False
        """Whether no more data will come."""

    async def more(self, most: int) -> None:
        """Wait until there is more data, or the end. Raises OSError if the connection was reset."""
        self._looks += 1
        if self._looks > PEEKS_AT_ONCE:
            await trio.sleep(PEEK_PAUSE)
        self._expect_more()
        await trio.lowlevel.wait_readable(self._socket.fileno())
        await self._look(most)

    async def at_last(self, most: int) -> None:
        """Update the data without waiting: a `more` may have timed out as data arrived. Raises OSError."""
        self._expect_more()
        if self._socket.is_readable():
            await self._look(most)

    def _expect_more(self) -> None:
        # Otherwise data that was peeked at already would make it readable.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(self.data) + 1)

    async def _look(self, most: int) -> None:
        seen, self.data = len(self.data), await self._socket.recv(most, socket.MSG_PEEK)
        self.ended = len(self.data) <= seen

    def take(self) -> bytes:
        """Consume the data that was peeked at."""
        self.done()
        return os.read(self._socket.fileno(), len(self.data))

    def done(self) -> None:
        """Make it an ordinary connection again."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


class ProbeInspector:
    """`limit`: bytes above which a request is not a probe. `lookup` says which connections may be a prober's."""

    def __init__(
        self, lookup: Lookup, limit: int, peers: ProbeSources, results: ProbeResults, ours: OurConnections
    ) -> None:
        self._lookup = lookup
        self._limit = limit
        self._peers = peers
        self._results = results
        self._ours = ours
        self.answered = 0
        """The number of probes answered without the application."""
        self.on_answer: Callable[[], None] = lambda: None
        """Called after each of them."""

    async def inspect(self, stream: trio.SocketStream, *, answers: bool = True) -> Inspection:
        """Classify a connection, which stays open unless it was answered. Without `answers`, every connection is for
        the application."""
        try:
            ends = stream.socket.getpeername()[:2], stream.socket.getsockname()[:2]
        except OSError:
            # Reset before it was accepted: a TCP probe.
            self._count()
            await trio.aclose_forcefully(stream)
            return _ANSWERED
        flow = Flow(ends[0], ends[1][1])
        if self._lookup.flow(flow) is None:
            return Inspection(Disposition.PASS_ON)
        peeker, head, by_prober = Peeker(stream), None, False
        try:
            request, greeted = await self._listen(stream, peeker, lambda: self._waits_for_nothing(ends))
            if peeker.ended and not peeker.data:
                if answers:
                    self._count()  # a TCP probe: answered by being accepted
                await trio.aclose_forcefully(stream)
                return _ANSWERED
            # The prober has given up. A connection that identifies itself as a probe and is closed counts as one.
            by_prober = await (
                self._waits_for_nothing(ends) if request else _in_thread(self._peers.is_probe_source, ends)
            )
            if request and by_prober and (answers or request.kind is not ProbeKind.GRPC_OTHER):
                probe = PendingProbe(request, peeker.take(), greeted)
                if answers:
                    return await self._decide(stream, probe)
                return Inspection(Disposition.NEEDS_APPLICATION, pending=probe)
            head = await _acknowledged(peeker) if greeted else b""
            peeker.done()
        except _RESET:
            log.debug("%s port %d: gone before it said what it wants", *ends[0])
        if head is None:
            await trio.aclose_forcefully(stream)
            return _ANSWERED
        if by_prober:
            return Inspection(Disposition.NEEDS_APPLICATION, head)
        self._lookup.untag_flow(flow)  # or its data would not count
        return Inspection(Disposition.PASS_ON, head)

    async def _waits_for_nothing(self, ends: tuple[Address, Address]) -> bool:
        """Return whether the other end is a prober, or closed: neither waits for the server to speak first."""
        return await _in_thread(self._peers.is_probe_source, ends) or await _in_thread(self._peers.has_closed, ends)

    async def _decide(self, stream: trio.SocketStream, probe: PendingProbe) -> Inspection:
        """Answer a probe whose result is known."""
        if probe.request.kind is ProbeKind.GRPC_OTHER:
            result: ProbeResult | None = UNIMPLEMENTED
        else:
            result = self._results.result(_check(stream, probe))
        if result is None:
            return Inspection(Disposition.NEEDS_APPLICATION, pending=probe)
        self._count()
        await _tell(stream, probe, result)
        return _ANSWERED

    async def ask(self, stream: trio.SocketStream, probe: PendingProbe) -> bool:
        """Ask the running application, pass on its response, and close the connection. Return whether the application
        is healthy.

        If it does not respond, the connection is closed without a response.
        """
        result = await self._results.ask(_check(stream, probe))
        if result is None:
            await trio.aclose_forcefully(stream)
        else:
            await _tell(stream, probe, result)
        return result is not None and result.well

    def _count(self) -> None:
        self.answered += 1
        self.on_answer()

    def announced(self, disposition: Disposition, port: int) -> Announce:
        """Return the function for forward() that tags connections to the port with what they stand for."""
        return self._ours.announced(
            FlowOrigin.PROBE if disposition is Disposition.NEEDS_APPLICATION else FlowOrigin.CLIENT, port
        )

    async def _listen(
        self, stream: trio.SocketStream, peeker: Peeker, waits_for_nothing: Callable[[], Awaitable[bool]]
    ) -> tuple[ProbeRequest | None, bool]:
        """Return the request of a probe that identifies itself in time, and whether it was sent SETTINGS."""
        found, greeted = classify(b"", self._limit), False
        for patience in (CLIENTS_PATIENCE, PROBERS_PATIENCE):
            with trio.move_on_after(patience) as scope:
                while True:
                    if found.kind is ProbeKind.AWAITS_SETTINGS and not greeted:
                        greeted = True
                        with trio.CancelScope(shield=True):  # all or nothing; a new connection has room for it
                            await stream.send_all(SETTINGS)
                    if peeker.ended or found.kind not in (ProbeKind.UNDECIDED, ProbeKind.AWAITS_SETTINGS):
                        break
                    await peeker.more(self._limit + 1)
                    found = classify(peeker.data, self._limit)
            if not scope.cancelled_caught:
                break
            waited_for = not await waits_for_nothing()
            # Checked afterwards: a process that has closed it has sent everything before.
            await peeker.at_last(self._limit + 1)
            found = classify(peeker.data, self._limit)
            if waited_for:
                break
        return found.request, greeted


async def _in_thread(ask: Callable[[Address, Address], bool], ends: tuple[Address, Address]) -> bool:
    return await trio.to_thread.run_sync(ask, *ends)


def _check(stream: trio.SocketStream, probe: PendingProbe) -> ProbeCheck:
    return ProbeCheck(asked_for(stream.socket), probe.request)


async def _tell(stream: trio.SocketStream, probe: PendingProbe, result: ProbeResult) -> None:
    """Send the response, and let the prober close first: closing with unread data would reset the connection."""
    data = answer(probe.request.kind, probe.data, result, greeted=probe.greeted)
    if data is not None:
        with trio.move_on_after(LAST_WORDS), suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            while await stream.receive_some(_CHUNK):
                pass
    await trio.aclose_forcefully(stream)


async def _acknowledged(peeker: Peeker) -> bytes | None:
    """Return all data up to the acknowledgement of SETTINGS, without that; None if it never arrives."""
    with trio.move_on_after(ACKNOWLEDGEMENT):
        while (head := without_acknowledgement(peeker.data)) is None:
            if peeker.ended or len(peeker.data) == _MUCH:
                return None
            await peeker.more(_MUCH)
        peeker.take()
        return head
    return None
