"""Calls ttrpc methods over one connection, any number at once.

All but a few messages of a streamed answer stay in the kernel until they are read: a stream that is not read blocks
everything else on its connection, so a long-lived stream needs a connection of its own.

A lost connection fails all pending and later calls with UNAVAILABLE. Whether to reconnect is left to the caller, which
knows if a call may be repeated.
"""

import logging
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import trio
from google.protobuf.message import Message

from zeropod.rpc.frames import MAX_MESSAGE, Decoder, Flag, Frame, FrameType, Oversized, ProtocolError, encode
from zeropod.rpc.messages.ttrpc_pb2 import Request, Response
from zeropod.rpc.payload import AnyMessage, decode
from zeropod.rpc.status import Code, RpcError

CONNECT_TIMEOUT = 10.0
"""Seconds to connect: a listener with a full backlog would otherwise block us for ever."""

SEND_TIMEOUT = 10.0
"""Seconds for a server to take one request, after which the connection counts as lost."""

READ_AHEAD = 8
"""Messages of a stream that are read from the kernel in advance."""

LAST_STREAM = 2**32 - 1

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_client(path: str | os.PathLike[str]) -> AsyncIterator["Client"]:
    """Yield a client connected to the Unix socket at `path`; close it at the end of the block.

    Raises RpcError UNAVAILABLE if it cannot connect.
    """
    try:
        with trio.fail_after(CONNECT_TIMEOUT):
            stream = await trio.open_unix_socket(path)
    except trio.TooSlowError as error:
        raise RpcError(Code.UNAVAILABLE, f"{path}: not connected within {CONNECT_TIMEOUT:g} s") from error
    except OSError as error:
        raise RpcError(Code.UNAVAILABLE, f"{path}: {error.strerror or error}") from error
    async with run_client(stream) as client:
        yield client


@asynccontextmanager
async def run_client(stream: trio.abc.Stream) -> AsyncIterator["Client"]:
    """Yield a client on a connected stream; close it at the end of the block."""
    client = Client(stream)
    failure: Exception | None = None
    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(client._receive)
        try:
            yield client
        except Exception as error:  # noqa: BLE001 (raised again below)
            # Outside of the nursery, which would wrap it in a group that the caller never asked for.
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class _Pending:
    """A call that waits for its response."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: Response | RpcError | None = None

    def finish(self, result: Response | RpcError) -> None:
        if self.result is None:
            self.result = result
            self.done.set()

    async def take(self, frame: Frame | Oversized) -> None:
        if isinstance(frame, Oversized):
            self.finish(_oversized(frame))
        elif frame.type != FrameType.RESPONSE:
            self.finish(RpcError(Code.INTERNAL, f"frame of type {frame.type} in answer to a unary call"))
        else:
            self.finish(_response(frame))


class _Streamed:
    """A call whose answer is a stream of messages."""

    def __init__(self) -> None:
        self._incoming, self.messages = trio.open_memory_channel[bytes](READ_AHEAD)
        self.failure: RpcError | None = None

    def finish(self, result: Response | RpcError | None) -> None:
        if isinstance(result, Response):
            result = _failure(result)
        self.failure = self.failure or result
        self._incoming.close()

    async def take(self, frame: Frame | Oversized) -> None:
        if isinstance(frame, Oversized):
            self.finish(_oversized(frame))
        elif frame.type == FrameType.RESPONSE:
            self.finish(_response(frame))
        elif frame.type != FrameType.DATA:
            self.finish(RpcError(Code.INTERNAL, f"frame of type {frame.type} in a stream"))
        else:
            if not frame.flags & Flag.NO_DATA:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # its reader has gone
                    await self._incoming.send(frame.payload)
            if frame.flags & Flag.REMOTE_CLOSED:
                self.finish(None)


def _oversized(frame: Oversized) -> RpcError:
    text = f"response of {frame.length} bytes exceeds the maximum message size of {MAX_MESSAGE}"
    return RpcError(Code.RESOURCE_EXHAUSTED, text)


def _response(frame: Frame) -> Response | RpcError:
    try:
        return decode(Response, frame.payload)
    except RpcError as error:
        return RpcError(Code.INTERNAL, error.message)


def _failure(response: Response) -> RpcError | None:
    """Return the error in a response, None if the call succeeded."""
    status = response.status
    return None if status.code == Code.OK else RpcError(Code.from_wire(status.code), status.message)


class Client:
    """One connection to a ttrpc server; made by `open_client`."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._sending = trio.Lock()
        self._next_stream = 1
        self._pending: dict[int, _Pending | _Streamed] = {}
        self._lost: str | None = None

    async def call(
        self,
        service: str,
        method: str,
        request: Message,
        response_type: type[AnyMessage],
        *,
        timeout: float | None = None,
    ) -> AnyMessage:
        """Call a method and return its response.

        `timeout` is in seconds and applies to the server, too. Raises RpcError: the server's error,
        DEADLINE_EXCEEDED after the timeout, UNAVAILABLE if the connection is or gets lost, RESOURCE_EXHAUSTED
        if the request is too long to send, INTERNAL for a response that makes no sense.
        """
        encoded = _encoded(service, method, request, timeout)
        with trio.move_on_after(math.inf if timeout is None else max(timeout, 0.0)):
            response = await self._exchange(encoded)
            try:
                return decode(response_type, response.payload)
            except RpcError as error:
                raise RpcError(Code.INTERNAL, f"response to {method}: {error.message}") from error
        raise RpcError(Code.DEADLINE_EXCEEDED, f"{method} was not answered within {timeout:g} s")

    @asynccontextmanager
    async def stream(
        self, service: str, method: str, request: Message, message_type: type[AnyMessage]
    ) -> AsyncIterator[Callable[[], Awaitable[AnyMessage | None]]]:
        """Call a method with a streamed answer; yield a function that returns the next message, None after the last.

        Raises RpcError as `call` does, also from that function. ttrpc has no way to cancel a stream but to close the
        connection.
        """
        streamed = _Streamed()
        stream = await self._send(_encoded(service, method, request, None), streamed, Flag.REMOTE_CLOSED)

        async def receive() -> AnyMessage | None:
            try:
                payload = await streamed.messages.receive()
            except trio.EndOfChannel:
                if streamed.failure:
                    raise streamed.failure from None
                return None
            try:
                return decode(message_type, payload)
            except RpcError as error:
                raise RpcError(Code.INTERNAL, f"message of {method}: {error.message}") from error

        with streamed.messages:
            try:
                yield receive
            finally:
                self._pending.pop(stream, None)

    async def _exchange(self, request: bytes) -> Response:
        pending = _Pending()
        stream = await self._send(request, pending)
        try:
            await pending.done.wait()
        finally:
            self._pending.pop(stream, None)
        assert pending.result is not None
        if isinstance(pending.result, RpcError):
            raise pending.result
        if failure := _failure(pending.result):
            raise failure
        return pending.result

    async def _send(self, request: bytes, pending: _Pending | _Streamed, flags: int = 0) -> int:
        """Send a request and return its stream id."""
        async with self._sending:
            if self._lost is not None:
                raise RpcError(Code.UNAVAILABLE, self._lost)
            # Taken under the lock: ids must reach the server in increasing order.
            stream = self._next_stream
            if stream > LAST_STREAM:
                raise RpcError(Code.UNAVAILABLE, "the connection has used up its stream ids; connect again")
            self._next_stream += 2
            self._pending[stream] = pending
            try:
                # A caller that gives up must not leave half a frame behind.
                with trio.CancelScope(shield=True), trio.fail_after(SEND_TIMEOUT):
                    await self._stream.send_all(encode(Frame(stream, FrameType.REQUEST, request, flags)))
            except trio.TooSlowError:
                self._fail(f"the server took no request for {SEND_TIMEOUT:g} s")
                await trio.aclose_forcefully(self._stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._fail(f"the connection is lost: {str(error) or type(error).__name__}")
            return stream

    async def _receive(self) -> None:
        decoder = Decoder()
        reason = "the server closed the connection"
        try:
            while data := await self._stream.receive_some():
                for frame in decoder.feed(bytes(data)):
                    await self._dispatch(frame)
            decoder.end()
        except (trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError) as error:
            reason = f"the connection is lost: {str(error) or type(error).__name__}"
        self._fail(reason)

    async def _dispatch(self, frame: Frame | Oversized) -> None:
        pending = self._pending.get(frame.stream)
        if pending is None:
            # The answer to a call that was cancelled or has timed out.
            log.debug("ttrpc answer on stream %d, for which no call waits", frame.stream)
        else:
            await pending.take(frame)

    def _fail(self, reason: str) -> None:
        if self._lost is None:
            self._lost = reason
        for pending in self._pending.values():
            pending.finish(RpcError(Code.UNAVAILABLE, reason))


def _encoded(service: str, method: str, request: Message, timeout: float | None) -> bytes:
    """Return the payload of a request's frame. Raises RpcError if it is too long to send."""
    nanoseconds = 0 if timeout is None else max(1, int(timeout * 1e9))
    payload = request.SerializeToString()
    message = Request(service=service, method=method, payload=payload, timeout_nano=nanoseconds)
    encoded = message.SerializeToString()
    if len(encoded) > MAX_MESSAGE:
        text = f"request of {len(payload)} bytes exceeds the maximum message size of {MAX_MESSAGE}"
        raise RpcError(Code.RESOURCE_EXHAUSTED, text)
    return encoded
