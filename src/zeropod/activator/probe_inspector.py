"""Finds out what a connection is that may be a probe's, and answers it if it is a probe.

The connection was accepted to be looked at, in the place of an application that sleeps. What it says is only peeked at,
so that the application can still be given all of it. Only a prober's process is waited for longer than
`CLIENTS_PATIENCE`: where the server speaks first, the client waits for us.

What it says is not enough: only a prober's process is answered. And what a prober sends need not be a probe that can be
answered here: HTTPS, a request that is too large, one that does not say what sent it.
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
"""Seconds in which a client has to say what it wants. The kubelet does so at once, and waits a second for an answer."""

PROBERS_PATIENCE = 10.0
"""Further seconds for a prober's process, which speaks first in all that it does, but may not get to it on a busy node;
and for what its owner has closed, and so will end."""

LAST_WORDS = 1.0
"""Seconds for the prober to take its answer and close the connection."""

PEEKS_AT_ONCE = 4
"""Looks without a pause between them: as many segments as a probe comes in at the most."""

PEEK_PAUSE = 0.01
"""Seconds between further looks: a client that sends byte by byte costs no more than a look in that time."""

_CHUNK = 1 << 12  # bytes: of what is only thrown away

ACKNOWLEDGEMENT = 10.0
"""Seconds for an HTTP/2 client to acknowledge our SETTINGS, which it must."""
_MUCH = 1 << 16  # bytes that it may send meanwhile


class Disposition(Enum):
    ANSWERED = auto()
    """It was a probe and has been answered, or has gone."""
    NEEDS_APPLICATION = auto()
    """It is a probe that only the application can answer."""
    PASS_ON = auto()
    """It is a client's connection, for the application."""


@dataclass(frozen=True, slots=True)
class PendingProbe:
    """A probe that has come completely, and waits for its answer."""

    request: ProbeRequest
    data: bytes
    """As it came."""
    greeted: bool
    """It was sent our SETTINGS."""


@dataclass(frozen=True, slots=True)
class Inspection:
    disposition: Disposition
    head: bytes = b""
    """What was read from the connection, and is to come before the rest."""
    pending: PendingProbe | None = None
    """To be put to the application by `ask`, instead of the connection being passed on."""


_ANSWERED = Inspection(Disposition.ANSWERED)
_RESET = (ConnectionError, TimeoutError, trio.BrokenResourceError)


class Peeker:
    """What a connection has received, not taken away: the application can still be given all of it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket
        self._looks = 0
        self.data = b""
        self.ended = False
        """No more will come."""

    async def more(self, most: int) -> None:
        """Waits until there is more than before, or the end. Raises OSError when the connection was reset."""
        self._looks += 1
        if self._looks > PEEKS_AT_ONCE:
            await trio.sleep(PEEK_PAUSE)
        self._expect_more()
        await trio.lowlevel.wait_readable(self._socket.fileno())
        await self._look(most)

    async def at_last(self, most: int) -> None:
        """What has come by now, without waiting: a `more` may have run out of time as it came. Raises OSError."""
        self._expect_more()
        if self._socket.is_readable():
            await self._look(most)

    def _expect_more(self) -> None:
        # Otherwise what was seen already would make it readable.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(self.data) + 1)

    async def _look(self, most: int) -> None:
        seen, self.data = len(self.data), await self._socket.recv(most, socket.MSG_PEEK)
        self.ended = len(self.data) <= seen

    def take(self) -> bytes:
        """Takes away what was seen."""
        self.done()
        return os.read(self._socket.fileno(), len(self.data))

    def done(self) -> None:
        """Makes it an ordinary connection again, of whatever it has received."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


class ProbeInspector:
    """`limit`: bytes beyond which a request is not a probe. `lookup` says which connections may be a prober's."""

    def __init__(
        self, lookup: Lookup, limit: int, peers: ProbeSources, results: ProbeResults, ours: OurConnections
    ) -> None:
        self._lookup = lookup
        self._limit = limit
        self._peers = peers
        self._results = results
        self._ours = ours
        self.answered = 0
        """Probes so far, without the application."""
        self.on_answer: Callable[[], None] = lambda: None
        """Called after each."""

    async def inspect(self, stream: trio.SocketStream, *, answers: bool = True) -> Inspection:
        """Return what a connection is, which stays open unless it was answered.

        Without `answers` everything is for the application.
        """
        try:
            ends = stream.socket.getpeername()[:2], stream.socket.getsockname()[:2]
        except OSError:
            # Reset before it was accepted: a TCP probe in a hurry.
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
                    self._count()  # a TCP probe: it was accepted
                await trio.aclose_forcefully(stream)
                return _ANSWERED
            # A prober that has given up is gone. What says that it is a probe, and waits for no answer, is one.
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
        self._lookup.untag_flow(flow)  # or what it sends would not count
        return Inspection(Disposition.PASS_ON, head)

    async def _waits_for_nothing(self, ends: tuple[Address, Address]) -> bool:
        """Return whether the other end is a prober, or closed: neither waits for a server to speak first."""
        return await _in_thread(self._peers.is_probe_source, ends) or await _in_thread(self._peers.has_closed, ends)

    async def _decide(self, stream: trio.SocketStream, probe: PendingProbe) -> Inspection:
        """Answer a probe if its result is known."""
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
        """Ask the application, which has to run, pass its answer on, and close the connection.

        Returns whether the application is well. If it does not answer, the connection is closed without an answer.
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
        """Return for forward() what our connection to the port stands for, by the connection that it is made for."""
        return self._ours.announced(
            FlowOrigin.PROBE if disposition is Disposition.NEEDS_APPLICATION else FlowOrigin.CLIENT, port
        )

    async def _listen(
        self, stream: trio.SocketStream, peeker: Peeker, waits_for_nothing: Callable[[], Awaitable[bool]]
    ) -> tuple[ProbeRequest | None, bool]:
        """Return what it asks, if it is a probe that says so in time, and whether it was sent our SETTINGS."""
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
            # Afterwards: what has closed it has sent everything before.
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
    """Answer, and let the prober close first: a close with something unread would reset the connection."""
    data = answer(probe.request.kind, probe.data, result, greeted=probe.greeted)
    if data is not None:
        with trio.move_on_after(LAST_WORDS), suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            while await stream.receive_some(_CHUNK):
                pass
    await trio.aclose_forcefully(stream)


async def _acknowledged(peeker: Peeker) -> bytes | None:
    """Return all that came up to the acknowledgement of our SETTINGS, without that; None if it never comes."""
    with trio.move_on_after(ACKNOWLEDGEMENT):
        while (head := without_acknowledgement(peeker.data)) is None:
            if peeker.ended or len(peeker.data) == _MUCH:
                return None
            await peeker.more(_MUCH)
        peeker.take()
        return head
    return None
