"""Finds out what a connection is that may be a prober's, and answers it if it is a probe.

The connection was accepted to be looked at, in the place of an application that sleeps. What it says is only peeked at,
so that the application can still be given all of it. Only a prober's process is waited for longer than `PATIENCE`:
where the server speaks first, the client waits for us.

What it says is not enough: only a prober's process is answered. And what is no probe may still be the prober's: HTTPS,
a request that is too large, one that does not say whose it is.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

import trio

from zeropod.activator.answer import UNIMPLEMENTED, answer
from zeropod.activator.asking import Outcome
from zeropod.activator.connect import Announce, OurConnections, asked_for
from zeropod.activator.examiner import Examination, Examiner
from zeropod.activator.opening import SETTINGS, Kind, Question, judge, without_acknowledgement
from zeropod.activator.peeker import Peeker
from zeropod.kernel.lookup import Flow, Lookup, Said
from zeropod.kernel.sock_diag import Address

log = logging.getLogger(__name__)

PATIENCE = 0.5
"""Seconds in which a client has to say what it wants. The kubelet does so at once, and waits a second for an answer."""

PROBERS_PATIENCE = 10.0
"""Further seconds for a prober's process, which speaks first in all that it does, but may not get to it on a busy node;
and for what its owner has closed, and so will end."""

LAST_WORDS = 1.0
"""Seconds for the prober to take its answer and close the connection."""

_CHUNK = 1 << 12  # bytes: of what is only thrown away

ACKNOWLEDGEMENT = 10.0
"""Seconds for an HTTP/2 client to acknowledge our SETTINGS, which it must."""
_MUCH = 1 << 16  # bytes that it may send meanwhile


class Peers(Protocol):
    """What is known of the process at the other end of a connection, from the first address to the second.

    Both block, for as long as it takes to look through the node's processes: they are called in another thread.
    """

    def is_probers(self, own: Address, other: Address, /) -> bool:
        """It is a prober."""

    def has_closed(self, own: Address, other: Address, /) -> bool:
        """There is none any more: whoever it was has closed it, and waits for no answer."""


class Wants(Enum):
    NOTHING = auto()
    """It was a probe and has been answered, or has gone."""
    PROBE = auto()
    """A prober wants something that only the application can say."""
    APPLICATION = auto()
    """Somebody wants the application."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that a prober has asked completely, and waits for the answer to."""

    question: Question
    data: bytes
    """As it came."""
    greeted: bool
    """It was sent our SETTINGS."""


@dataclass(frozen=True, slots=True)
class Finding:
    wants: Wants
    head: bytes = b""
    """What was read from the connection, and is to come before the rest."""
    asked: Asked | None = None
    """To be put to the application by `ask`, instead of the connection being passed on."""


_NOTHING = Finding(Wants.NOTHING)
_RESET = (ConnectionError, TimeoutError, trio.BrokenResourceError)


class Inspector:
    """`limit`: bytes beyond which a request is no probe. `lookup` says which connections may be a prober's."""

    def __init__(self, lookup: Lookup, limit: int, peers: Peers, examiner: Examiner, ours: OurConnections) -> None:
        self._lookup = lookup
        self._limit = limit
        self._peers = peers
        self._examiner = examiner
        self._ours = ours
        self.answered = 0
        """Probes so far, without the application."""
        self.on_answer: Callable[[], None] = lambda: None
        """Called after each."""

    async def inspect(self, stream: trio.SocketStream, *, answers: bool = True) -> Finding:
        """Leaves the connection open unless it wants nothing. Without `answers` all is for the application."""
        try:
            ends = stream.socket.getpeername()[:2], stream.socket.getsockname()[:2]
        except OSError:
            # Reset before it was accepted: a TCP probe in a hurry.
            self._count()
            await trio.aclose_forcefully(stream)
            return _NOTHING
        flow = Flow(ends[0], ends[1][1])
        if self._lookup.flow(flow) is None:
            return Finding(Wants.APPLICATION)
        peeker, head, by_prober = Peeker(stream), None, False
        try:
            question, greeted = await self._listen(stream, peeker, lambda: self._is_nobodys(ends))
            if peeker.ended and not peeker.data:
                if answers:
                    self._count()  # a TCP probe: it was accepted
                await trio.aclose_forcefully(stream)
                return _NOTHING
            # One that has given up is gone. What says that it is a probe, and waits for no answer, is nothing else.
            by_prober = await (self._is_nobodys(ends) if question else _in_thread(self._peers.is_probers, ends))
            if question and by_prober and (answers or question.kind is not Kind.GRPC_OTHER):
                asked = Asked(question, peeker.take(), greeted)
                return await self._decide(stream, asked) if answers else Finding(Wants.PROBE, asked=asked)
            head = await _acknowledged(peeker) if greeted else b""
            peeker.done()
        except _RESET:
            log.debug("%s port %d: gone before it said what it wants", *ends[0])
        if head is None:
            await trio.aclose_forcefully(stream)
            return _NOTHING
        if by_prober:
            return Finding(Wants.PROBE, head)
        self._lookup.forget(flow)  # or what it sends would not count
        return Finding(Wants.APPLICATION, head)

    async def _is_nobodys(self, ends: tuple[Address, Address]) -> bool:
        """Whether there is nobody who waits for a server to speak first."""
        return await _in_thread(self._peers.is_probers, ends) or await _in_thread(self._peers.has_closed, ends)

    async def _decide(self, stream: trio.SocketStream, asked: Asked) -> Finding:
        """Answers if it is known what to."""
        if asked.question.kind is Kind.GRPC_OTHER:
            outcome: Outcome | None = UNIMPLEMENTED
        else:
            outcome = self._examiner.outcome(_examination(stream, asked))
        if outcome is None:
            return Finding(Wants.PROBE, asked=asked)
        self._count()
        await _tell(stream, asked, outcome)
        return _NOTHING

    async def ask(self, stream: trio.SocketStream, asked: Asked) -> bool:
        """Asks the application, which has to run, and passes the answer on; whether it is well. Closes the connection.

        If it does not answer, neither does anybody else.
        """
        outcome = await self._examiner.ask(_examination(stream, asked))
        if outcome is None:
            await trio.aclose_forcefully(stream)
        else:
            await _tell(stream, asked, outcome)
        return outcome is not None and outcome.well

    def _count(self) -> None:
        self.answered += 1
        self.on_answer()

    def announced(self, wants: Wants, port: int) -> Announce:
        """For forward(): that our connection to the application stands for one that wants this of the port."""
        return self._ours.announced(Said.A_PROBES if wants is Wants.PROBE else Said.SOMEBODYS, port)

    async def _listen(
        self, stream: trio.SocketStream, peeker: Peeker, is_nobodys: Callable[[], Awaitable[bool]]
    ) -> tuple[Question | None, bool]:
        """What it asks, if it is a probe that says so in time, and whether it was sent our SETTINGS."""
        opening, greeted = judge(b"", self._limit), False
        for patience in (PATIENCE, PROBERS_PATIENCE):
            with trio.move_on_after(patience) as scope:
                while True:
                    if opening.kind is Kind.AWAITS_SETTINGS and not greeted:
                        greeted = True
                        with trio.CancelScope(shield=True):  # all or nothing; a new connection has room for it
                            await stream.send_all(SETTINGS)
                    if peeker.ended or opening.kind not in (Kind.UNDECIDED, Kind.AWAITS_SETTINGS):
                        break
                    await peeker.more(self._limit + 1)
                    opening = judge(peeker.data, self._limit)
            if not scope.cancelled_caught:
                break
            waited_for = not await is_nobodys()
            # Afterwards: whoever has it no more has said all before.
            await peeker.at_last(self._limit + 1)
            opening = judge(peeker.data, self._limit)
            if waited_for:
                break
        return opening.question, greeted


async def _in_thread(ask: Callable[[Address, Address], bool], ends: tuple[Address, Address]) -> bool:
    return await trio.to_thread.run_sync(ask, *ends)


def _examination(stream: trio.SocketStream, asked: Asked) -> Examination:
    return Examination(asked_for(stream.socket), asked.question)


async def _tell(stream: trio.SocketStream, asked: Asked, outcome: Outcome) -> None:
    """Also lets the prober be the one who closes: a close with something unread would reset the connection."""
    data = answer(asked.question.kind, asked.data, outcome, greeted=asked.greeted)
    if data is not None:
        with trio.move_on_after(LAST_WORDS), suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            while await stream.receive_some(_CHUNK):
                pass
    await trio.aclose_forcefully(stream)


async def _acknowledged(peeker: Peeker) -> bytes | None:
    """All that came up to the acknowledgement of our SETTINGS, without that; None if it never comes."""
    with trio.move_on_after(ACKNOWLEDGEMENT):
        while (head := without_acknowledgement(peeker.data)) is None:
            if peeker.ended or len(peeker.data) == _MUCH:
                return None
            await peeker.more(_MUCH)
        peeker.take()
        return head
    return None
