"""The source's end of a transfer: answers the requests of one connection from the directory of an export.

Owns the order of answers, which is that of the requests, and what bounds a client: requests that wait, the time that it
may take none of what is sent, the time without a request. Reading, digest and compression of a piece are done in a
thread, while the piece before it is being sent.
"""

import logging
import os
import re
from collections import OrderedDict
from contextlib import suppress
from hashlib import blake2b
from typing import Final

import trio

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.exports import manifest
from zeropod.runtime.exports.decision import Decision
from zeropod.runtime.exports.errors import BadExport
from zeropod.runtime.exports.export import Export
from zeropod.runtime.transfer.contents import Contents
from zeropod.runtime.transfer.errors import ProtocolError
from zeropod.runtime.transfer.order import needed_pages
from zeropod.runtime.transfer.protocol import (
    DIGEST,
    LARGEST_MANIFEST,
    LARGEST_REQUEST,
    Answer,
    Coding,
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
    decode_request,
    encode_answer,
)
from zeropod.runtime.transfer.zstd import Zstd

log = logging.getLogger(__name__)

WAITING: Final = 64
"""Requests of one client that may wait; then no more are read."""
AHEAD: Final = 1
"""Answers that are made while one is being sent."""
OPEN: Final = 16
"""Files that are held open."""
IDLE: Final = 900.0
"""Seconds without a request after which the connection is ended. The client makes another one when it needs it."""
STUCK: Final = 60.0
"""Seconds in which a client must take an answer."""
READ: Final = 1 << 16
_OUTDATED: Final = re.compile(b"\0+")


async def serve(stream: trio.abc.Stream, export: Export) -> None:
    """Serve until the client goes, or misbehaves, which is logged. The caller closes the stream."""
    server = _Server(export)
    to_answer, requests = trio.open_memory_channel[Request](WAITING)
    to_send, answers = trio.open_memory_channel[Answer](AHEAD)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.answer, requests, to_send)
            nursery.start_soon(_send, stream, answers, nursery.cancel_scope)
            await _receive(stream, to_answer)
    except* ProtocolError as errors:
        log.warning("export %s: its client is refused: %s", export.key, errors.exceptions[0])
    except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        pass  # it is gone, or as good as gone
    finally:
        server.close()


async def _receive(stream: trio.abc.Stream, requests: trio.MemorySendChannel[Request]) -> None:
    frames = Frames(LARGEST_REQUEST)
    async with requests:
        while True:
            with trio.fail_after(IDLE):
                data = await stream.receive_some(READ)
            if not data:
                if frames.cut:
                    raise ProtocolError("it ended in the middle of a request")
                return
            for frame in frames.feed(data):
                await requests.send(decode_request(frame))


async def _send(stream: trio.abc.Stream, answers: trio.MemoryReceiveChannel[Answer], scope: trio.CancelScope) -> None:
    async with answers:
        async for answer in answers:
            with trio.fail_after(STUCK):
                await stream.send_all(encode_answer(answer))
    scope.cancel()  # the client has ended, and has all its answers


class _Server:
    """The state of one connection."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self._contents: Contents | None = None
        self._open: OrderedDict[int, int] = OrderedDict()
        """Descriptors by number of the file, the one used last at the end."""
        self._needed: dict[int, bytearray] = {}
        """A byte for each page of the store's files."""
        self._zstd = Zstd()

    async def answer(
        self, requests: trio.MemoryReceiveChannel[Request], answers: trio.MemorySendChannel[Answer]
    ) -> None:
        async with requests, answers:
            async for request in requests:
                await answers.send(await trio.to_thread.run_sync(self._answer, request))

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def _answer(self, request: Request) -> Answer:
        try:
            return self._answered(request)
        except (BadExport, OSError) as error:
            log.warning("export %s: %s", self._export.key, error)
            return Error(f"the export cannot be read: {error}")

    def _answered(self, request: Request) -> Answer:
        match request:
            case Get():
                return self._data(request)
            case GetManifest():
                return Manifest(self._manifest())
            case Commit():
                decision = self._export.decide(Decision.GIVEN)
                log.info("export %s: asked to give it away: it is %s", self._export.key, decision)
                return Decided(decision)
            case State():
                return Decided(self._export.decided)
            case Done():
                if self._export.decided is not Decision.GIVEN:
                    return Error("it was not given away")
                log.info("export %s: it has arrived", self._export.key)
                self._export.remove()
                return Taken()
            case Failed():
                log.warning("export %s: its target has failed: %s", self._export.key, request.text)
                return Taken()

    def _manifest(self) -> bytes:
        """Return it as it is on disk. Raises BadExport, OSError."""
        content = (self._export.directory / manifest.FILE).read_bytes()
        if len(content) > LARGEST_MANIFEST:
            raise BadExport("its manifest is too large to be sent")
        return content

    def _data(self, request: Get) -> Answer:
        if self._contents is None:
            found = manifest.decode(self._manifest())
            self._contents = Contents.of(found)
            with suppress(BadExport):  # an index that cannot be read is for the target to refuse
                if indexes := self._export.indexes(found):
                    self._needed = needed_pages(indexes.values(), found.stored)
        if request.file >= len(self._contents.files):
            return Error("there is no such file")
        listed = self._contents.files[request.file]
        if request.offset + request.length > listed.size:
            return Error(f"{listed.name} is shorter than that")
        content = os.pread(self._descriptor(request.file), request.length, request.offset)
        if len(content) != request.length:
            return Error(f"{listed.name} was cut short")
        if listed.is_store:
            content = self._without_outdated(listed.store_number, request.offset, content)
        digest = blake2b(content, digest_size=DIGEST).digest()
        if content == bytes(len(content)):
            coding, payload = Coding.ZEROES, b""
        elif (compressed := self._zstd.compress(content)) is not None:
            coding, payload = Coding.ZSTD, compressed
        else:
            coding, payload = Coding.RAW, content
        return Data(request.file, request.offset, request.length, coding, digest, payload)

    def _without_outdated(self, number: int, offset: int, content: bytes) -> bytes:
        """Return the content with zeroes in place of pages that are out of date."""
        needed = self._needed.get(number)
        if needed is None or offset % PAGE:
            return content
        pages = needed[offset // PAGE : -(-(offset + len(content)) // PAGE)]
        if 0 not in pages:
            return content
        changed = bytearray(content)
        for run in _OUTDATED.finditer(pages):
            start, end = run.start() * PAGE, min(run.end() * PAGE, len(content))
            changed[start:end] = bytes(end - start)
        return bytes(changed)

    def _descriptor(self, number: int) -> int:
        if number not in self._open:
            assert self._contents
            name = self._contents.files[number].name
            if len(self._open) >= OPEN:
                os.close(self._open.popitem(last=False)[1])
            path = self._export.directory / name
            self._open[number] = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._open.move_to_end(number)
        return self._open[number]
