"""Finds out what a connection is that may be a prober's, and answers it if it is a probe.

The connection was accepted to be looked at, in the place of an application that sleeps. What it says is only peeked at,
so that the application can still be given all of it. Nobody is waited for longer than `PATIENCE`: where the server
speaks first, the client waits for us.

What is no probe may still be the prober's: HTTPS, a request that is too large, one that does not say whose it is. Then
the process at the other end of the connection decides.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto

import trio

from zeropod.activator.answer import answer
from zeropod.activator.forward import Announce
from zeropod.activator.opening import PROBES, SETTINGS, Kind, judge, without_acknowledgement
from zeropod.kernel.lookup import Flow, Lookup, Said

log = logging.getLogger(__name__)

PATIENCE = 0.5
"""Seconds in which a prober has to say what it wants. The kubelet does so at once, and waits a second for an answer."""

LAST_WORDS = 1.0
"""Seconds for the prober to take its answer and close the connection."""

ACKNOWLEDGEMENT = 10.0
"""Seconds for an HTTP/2 client to acknowledge our SETTINGS, which it must."""
_MUCH = 1 << 16  # bytes that it may send meanwhile

IsProbers = Callable[[tuple[str, int], tuple[str, int]], bool]
"""Whether the process at the other end of a connection, from the first address to the second, is a prober."""


class Wants(Enum):
    NOTHING = auto()
    """It was a probe and has been answered, or has gone."""
    PROBE = auto()
    """A prober wants something that only the application can say."""
    APPLICATION = auto()
    """Somebody wants the application."""


@dataclass(frozen=True, slots=True)
class Finding:
    wants: Wants
    head: bytes = b""
    """What was read from the connection, and is to come before the rest."""


_NOTHING = Finding(Wants.NOTHING)
_RESET = (ConnectionError, TimeoutError, trio.BrokenResourceError)


class Inspector:
    """`limit`: bytes beyond which a request is no probe. `lookup` says which connections may be a prober's."""

    def __init__(self, lookup: Lookup, limit: int, is_probers: IsProbers) -> None:
        self._lookup = lookup
        self._limit = limit
        self._is_probers = is_probers
        self.answered = 0
        """Probes so far."""

    async def inspect(self, stream: trio.SocketStream) -> Finding:
        """Leaves the connection open unless it wants nothing."""
        try:
            ends = stream.socket.getpeername()[:2], stream.socket.getsockname()[:2]
        except OSError:
            # Reset before it was accepted: a TCP probe in a hurry.
            self.answered += 1
            await trio.aclose_forcefully(stream)
            return _NOTHING
        flow = Flow(ends[0], ends[1][1])
        if self._lookup.flow(flow) is None:
            return Finding(Wants.APPLICATION)
        peeker, head = _Peeker(stream), None
        try:
            kind, greeted = await self._listen(stream, peeker)
            if peeker.ended and not peeker.data:
                await self._answer(stream, b"")  # a TCP probe
                return _NOTHING
            if kind in PROBES:
                await self._answer(stream, answer(kind, peeker.take(), greeted=greeted))
                return _NOTHING
            head = await _acknowledged(peeker) if greeted else b""
            peeker.done()
        except _RESET:
            log.debug("%s port %d: gone before it said what it wants", *ends[0])
        if head is None:
            await trio.aclose_forcefully(stream)
            return _NOTHING
        if self._is_probers(*ends):
            return Finding(Wants.PROBE, head)
        self._lookup.forget(flow)  # or what it sends would not count
        return Finding(Wants.APPLICATION, head)

    def announced(self, wants: Wants, port: int) -> Announce:
        """For forward(): that our connection to the application stands for one that wants this of the port."""
        said = Said.A_PROBES if wants is Wants.PROBE else Said.SOMEBODYS

        @contextmanager
        def announced(address: tuple[str, int]) -> Iterator[None]:
            self._lookup.say(Flow(address, port), said)
            try:
                yield
            finally:
                self._lookup.forget(Flow(address, port))

        return announced

    async def _listen(self, stream: trio.SocketStream, peeker: "_Peeker") -> tuple[Kind, bool]:
        """What it is, as far as it says so in time, and whether it was sent our SETTINGS."""
        kind, greeted = Kind.UNDECIDED, False
        with trio.move_on_after(PATIENCE):
            while not peeker.ended and kind in (Kind.UNDECIDED, Kind.AWAITS_SETTINGS):
                await peeker.more(self._limit + 1)
                kind = judge(peeker.data, self._limit).kind
                if kind is Kind.AWAITS_SETTINGS and not greeted:
                    greeted = True  # even if only a part of it gets sent in time
                    await stream.send_all(SETTINGS)
        return kind, greeted

    async def _answer(self, stream: trio.SocketStream, data: bytes) -> None:
        """Also lets the prober be the one who closes: a close with something unread would reset the connection."""
        self.answered += 1
        with trio.move_on_after(LAST_WORDS), suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            while await stream.receive_some():
                pass
        await trio.aclose_forcefully(stream)


async def _acknowledged(peeker: "_Peeker") -> bytes | None:
    """All that came up to the acknowledgement of our SETTINGS, without that; None if it never comes."""
    with trio.move_on_after(ACKNOWLEDGEMENT):
        while (head := without_acknowledgement(peeker.data)) is None:
            if peeker.ended or len(peeker.data) == _MUCH:
                return None
            await peeker.more(_MUCH)
        peeker.take()
        return head
    return None


class _Peeker:
    """What a connection has received, without taking it away."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket
        self.data = b""
        self.ended = False
        """No more will come."""

    async def more(self, most: int) -> None:
        """Waits until there is more than before, or the end. Raises OSError when the connection was reset."""
        # Otherwise what was seen already would make it readable.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(self.data) + 1)
        await trio.lowlevel.wait_readable(self._socket.fileno())
        seen, self.data = len(self.data), await self._socket.recv(most, socket.MSG_PEEK)
        self.ended = len(self.data) <= seen

    def take(self) -> bytes:
        """Takes away what was seen."""
        self.done()
        return os.read(self._socket.fileno(), len(self.data))

    def done(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
