"""The target's end of a transfer: brings an export into the container's own directory, over any number of connections.

Owns the order of requests and what a broken connection means: what was not answered is asked for again, after a pause
that grows, for as long as the source exists. Nothing is lost by a break, and nothing is decided by it: COMMIT may be
asked as often as necessary, since the source decides once.

    nursery.start_soon(fetch.run)      connects when there is something to ask for; returns when there never will be
    await fetch.manifest()             what there is
    await fetch.small_files()          all that the restore needs is there
    fetch.limit(…)                     what is needed of the page store
    fetch.pages_files()                the page store's files, which are still being filled: for the pager
    await fetch.commit()               given or withdrawn
    await fetch.complete()             every piece is there
    await fetch.done()                 the source may remove the export

`failure` says why nothing more comes; every wait raises SourceLost then.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from zeropod.concurrency import leaves
from zeropod.runtime.exports import manifest as manifests
from zeropod.runtime.exports.decision import Decision
from zeropod.runtime.exports.errors import BadExport
from zeropod.runtime.pager.files import PagesFile
from zeropod.runtime.transfer.contents import Contents
from zeropod.runtime.transfer.errors import DecisionUnknown, ProtocolError, Refused, SourceLost
from zeropod.runtime.transfer.incoming import Incoming
from zeropod.runtime.transfer.order import StorePiece
from zeropod.runtime.transfer.protocol import (
    LARGEST_ANSWER,
    Answer,
    Commit,
    Data,
    Decided,
    Done,
    Error,
    Failed,
    Frames,
    Get,
    GetManifest,
    Manifest,
    Request,
    State,
    Taken,
    decode_answer,
    encode_request,
)

IN_FLIGHT: Final = 8
"""Pieces asked for in advance, when nothing waits for one."""
GENTLE: Final = 2
"""The same before the decision, and after a page fault: what waits comes after those that are on their way."""
URGENT_FOR: Final = 0.1
"""Seconds after a page fault for which more are expected."""
MOST: Final = 48
"""Requests on their way in any case; the source lets 64 wait."""
PAUSE: Final = 0.05
"""Seconds before the second attempt to connect; doubled for each further one."""
LONGEST_PAUSE: Final = 2.0
STALLED: Final = 15.0
"""Seconds without a byte, while something was asked for, after which a connection counts as broken."""
PATIENCE: Final = 300.0
"""Seconds without a valid answer, while something is asked for, after which the source counts as lost."""
DAMAGED: Final = 5
"""Pieces in a row that may arrive damaged; with one more the source counts as lost."""
COMMIT_WITHIN: Final = 30.0
"""Seconds for the answer to COMMIT over all connections."""
READ: Final = 1 << 18

_ANSWERS: Final = {GetManifest: Manifest, Commit: Decided, State: Decided, Done: Taken, Failed: Taken}

Connect = Callable[[], Awaitable[trio.abc.Stream]]
"""Makes a connection, past the opening lines. Raises Refused, ProtocolError, OSError or what a stream raises."""


class _Broken(Exception):  # noqa: N818
    """The connection is of no more use."""


@dataclass(slots=True, eq=False)
class _Call:
    """A request that has one answer, unlike one for a piece."""

    request: Request
    sent: bool = False
    answer: Answer | None = None
    over: trio.Event = field(default_factory=trio.Event)


class Fetch:
    """One container's transfer. Used in trio's thread."""

    def __init__(self, connect: Connect, directory: Path, *, patience: float = PATIENCE) -> None:
        """`directory` is the container's own; what is fetched must not be there yet."""
        self.failure = ""
        """Why nothing more comes."""
        self.bytes_received = 0
        """On the wire, without what frames them."""
        self._connect = connect
        self._directory = directory
        self._patience = patience
        self._incoming: Incoming | None = None
        self._manifest: manifests.Manifest | None = None
        self._calls: deque[_Call] = deque()
        self._in_flight: deque[_Call | Get] = deque()
        self._decided = False
        self._last_urgent = 0.0
        self._last_answer = 0.0
        self._damaged = 0
        self._finished = False
        self._connections = trio.CancelScope()
        """Cancelled when no connection is of use any more."""
        self._work = trio.Event()
        """Set when there may be something to send."""
        self._progress = trio.Event()
        """Set, and replaced, whenever something has arrived or failed."""

    async def manifest(self) -> manifests.Manifest:
        """Return the manifest, which was checked. Raises SourceLost."""
        await self._until(lambda: self._manifest is not None)
        assert self._manifest
        return self._manifest

    async def small_files(self) -> None:
        """Wait until everything but the page store is there. Raises SourceLost."""
        await self._until(lambda: self._incoming is not None and self._incoming.small_are_there)

    def pages_files(self) -> dict[int, PagesFile]:
        """Return the page store's files by their number there, after `manifest`; the caller owns the descriptors.
        Raises OSError."""
        assert self._incoming
        return self._incoming.pages_files()

    def limit(self, needed: Collection[StorePiece], first: Iterable[StorePiece] = ()) -> None:
        """Bring in only these pieces of the page store (`order`), and `first` before others, in that order."""
        assert self._incoming
        self._incoming.limit(needed, first)

    async def commit(self, within: float = COMMIT_WITHIN) -> Decision:
        """Ask for the container; return GIVEN or WITHDRAWN. Raises DecisionUnknown, SourceLost.

        It may run here after GIVEN alone. With SourceLost the source has not been asked.
        """
        call = _Call(Commit())
        try:
            with trio.fail_after(within):
                answer = await self._called(call)
        except (trio.TooSlowError, SourceLost) as error:
            if not call.sent:
                raise SourceLost(str(error) or f"it could not be reached within {within:g} s") from error
            reason = str(error) or f"it has not answered within {within:g} s"
            raise DecisionUnknown(f"the source was asked to give the container away: {reason}") from error
        if (decision := self._decision(answer)) is None:
            raise DecisionUnknown("the source was asked to give the container away, and has not decided")
        return decision

    async def state(self) -> Decision | None:
        """Return what is decided, None if nothing is. Raises SourceLost."""
        return self._decision(await self._called(_Call(State())))

    async def complete(self) -> None:
        """Wait until every piece is there. Raises SourceLost."""
        await self._until(lambda: self._incoming is not None and not self._incoming.pieces_to_come)

    async def done(self, within: float = PATIENCE) -> None:
        """Tell the source that it may remove the export, if that is possible; `run` returns afterwards."""
        with trio.move_on_after(within), suppress(SourceLost):
            await self._called(_Call(Done()))
        self._end()

    async def failed(self, text: str, within: float = 2.0) -> None:
        """Tell the source that this end gives up, if that is possible; `run` returns afterwards."""
        with trio.move_on_after(within), suppress(SourceLost):
            await self._called(_Call(Failed(text)))
        self._end()

    @property
    def pieces_to_come(self) -> int:
        return self._incoming.pieces_to_come if self._incoming else 0

    @property
    def bytes_to_come(self) -> int:
        return self._incoming.bytes_to_come if self._incoming else 0

    def _decision(self, answer: Answer) -> Decision | None:
        if not isinstance(answer, Decided):
            # It was asked, but could not decide: what it had written of the decision is not known here.
            raise DecisionUnknown(f"the source answered: {answer.text if isinstance(answer, Error) else answer}")
        self._decided = answer.decision is Decision.GIVEN
        self._work.set()
        return answer.decision

    async def _called(self, call: _Call) -> Answer:
        self._calls.append(call)
        self._work.set()
        try:
            await self._until(call.over.is_set)
        finally:
            with suppress(ValueError):
                self._calls.remove(call)
        assert call.answer
        return call.answer

    async def _until(self, happened: Callable[[], bool]) -> None:
        while not happened():
            if self.failure or self._finished:
                raise SourceLost(self.failure or "this end has given up")
            await self._progress.wait()

    def _proceeds(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    def _end(self) -> None:
        self._finished = True
        self._connections.cancel()
        self._proceeds()

    def _lose(self, reason: str) -> None:
        self.failure = reason
        if self._incoming:
            self._incoming.lose(reason)
        self._connections.cancel()
        self._proceeds()

    async def run(self) -> None:
        """Fetch until `done` or `failed`, or the source is lost. Raises nothing."""
        self._calls.appendleft(_Call(GetManifest()))
        self._last_answer = trio.current_time()
        try:
            with self._connections:
                await self._connect_again_and_again()
        finally:
            if not self.failure and not self._finished:
                self.failure = "the shim does not fetch any more"
            self._proceeds()
            if self._incoming:
                self._incoming.close()

    async def _connect_again_and_again(self) -> None:
        pause = 0.0
        while True:
            if not self._has_work():
                self._work = trio.Event()
                await self._work.wait()
                self._last_answer = trio.current_time()
                continue
            before = self._last_answer
            reason = await self._connection()
            if self._last_answer != before:
                pause = 0.0
            elif trio.current_time() - before > self._patience:
                self._lose(f"the source did not answer for {self._patience:g} s: {reason}")
            await trio.sleep(pause)
            pause = min(LONGEST_PAUSE, max(PAUSE, pause * 2))

    def _has_work(self) -> bool:
        return bool(self._calls) or (self._incoming is not None and self._incoming.pieces_to_come > 0)

    async def _connection(self) -> str:
        """Make a connection, and use it until it breaks; return why it did."""
        reason = "the connection was closed"
        try:
            with trio.fail_after(STALLED):
                stream = await self._connect()
            async with stream:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, stream)
                    await self._receive(stream)
                    nursery.cancel_scope.cancel()
        except* Refused as refusals:
            refusal = next(leaves(refusals))
            reason = str(refusal)
            if isinstance(refusal, Refused) and refusal.gone:
                self._lose(f"the source has it no more: {reason}")
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError, _Broken) as errors:
            reason = str(next(leaves(errors))) or reason
        except* trio.TooSlowError:
            reason = "no connection was made in time"
        finally:
            self._forget_in_flight()
        return reason

    def _forget_in_flight(self) -> None:
        """Have everything that was not answered asked again; calls are kept until they are."""
        for asked in reversed(self._in_flight):
            if isinstance(asked, Get):
                assert self._incoming
                self._incoming.in_vain(asked)
        self._in_flight.clear()

    async def _send(self, stream: trio.abc.Stream) -> None:
        sent: set[_Call] = set()
        while True:
            self._work = trio.Event()
            while (asked := self._next(sent)) is not None:
                self._in_flight.append(asked)
                if isinstance(asked, _Call):
                    asked.sent = True
                    sent.add(asked)
                await stream.send_all(encode_request(asked.request if isinstance(asked, _Call) else asked))
            await self._work.wait()

    def _next(self, sent: set[_Call]) -> _Call | Get | None:
        """Return what to send next; None if nothing may be sent now."""
        for call in self._calls:
            if call not in sent:
                return call
        if self._incoming is None:
            return None
        if self._incoming.urgent:
            self._last_urgent = trio.current_time()
            return self._incoming.next() if len(self._in_flight) < MOST else None
        calm = self._decided and trio.current_time() - self._last_urgent > URGENT_FOR
        ahead = IN_FLIGHT if calm or not self._incoming.small_are_there else GENTLE
        return self._incoming.next() if len(self._in_flight) < ahead else None

    async def _receive(self, stream: trio.abc.Stream) -> None:
        """Take answers until the other side ends."""
        frames = Frames(LARGEST_ANSWER)
        while True:
            data = None
            with trio.move_on_after(STALLED):
                data = await stream.receive_some(READ)
            if data is None:
                if self._in_flight:
                    raise _Broken(f"nothing has come for {STALLED:g} s")
                self._last_answer = trio.current_time()  # nothing was asked for
                continue
            if not data:
                raise _Broken("the other side has ended the connection")
            for frame in frames.feed(data):
                await self._take(decode_answer(frame))
            self._work.set()

    async def _take(self, answer: Answer) -> None:
        if not self._in_flight:
            raise ProtocolError("an answer without a request")
        asked = self._in_flight[0]
        if isinstance(asked, Get):
            await self._take_piece(asked, answer)
        else:
            if not isinstance(answer, (Error, _ANSWERS[type(asked.request)])):
                raise ProtocolError(f"{type(answer).__name__} in answer to {type(asked.request).__name__}")
            self._in_flight.popleft()
            with suppress(ValueError):  # its caller has given up
                self._calls.remove(asked)
            if isinstance(asked.request, GetManifest):
                self._begin(answer)
            asked.answer = answer
            asked.over.set()
        self._last_answer = trio.current_time()
        self._proceeds()

    def _begin(self, answer: Answer) -> None:
        if not isinstance(answer, Manifest):
            self._lose(f"the source has no manifest: {answer.text if isinstance(answer, Error) else answer}")
            return
        try:
            manifest = manifests.decode(answer.text)
            self._incoming = Incoming(self._directory, Contents.of(manifest), lambda: self._work.set())
        except (BadExport, OSError) as error:
            self._lose(f"what the source offers cannot be taken: {error}")
            return
        self._manifest = manifest

    async def _take_piece(self, asked: Get, answer: Answer) -> None:
        assert self._incoming
        if isinstance(answer, Error):
            self._lose(f"the source cannot read its own: {answer.text}")
            return
        if not isinstance(answer, Data) or (answer.file, answer.offset, answer.length) != (
            asked.file,
            asked.offset,
            asked.length,
        ):
            raise ProtocolError(f"a piece was asked for, and {type(answer).__name__} of another one came")
        try:
            if not await trio.to_thread.run_sync(self._incoming.store, answer):
                self._damaged += 1
                if self._damaged > DAMAGED:
                    self._lose("pieces arrive damaged, again and again")
                raise _Broken("a piece arrived damaged")
        except OSError as error:
            self._lose(f"what arrives cannot be written: {error}")
            return
        self._damaged = 0
        self._in_flight.popleft()
        self.bytes_received += len(answer.payload)
        self._incoming.arrived(asked)
