"""The server's side of a ttrpc connection without I/O: parses a client's frames into calls, and encodes answers.

Rules, in the order in which they are checked for each frame (those of Go's ttrpc server):

1. An oversized message gets RESOURCE_EXHAUSTED on its stream.
2. A client's stream ids are odd; an even one gets INVALID_ARGUMENT.
3. A data frame belongs to an open stream. No method here takes a stream of messages, so on a stream whose call is
   running it is ignored (the server ends the stream), on any other it gets INVALID_ARGUMENT.
4. Frames of other types than request and data are ignored, for later versions of the protocol.
5. A request's stream id is greater than all before it, or it gets INVALID_ARGUMENT.
6. A request that cannot be decoded gets INVALID_ARGUMENT.
7. At most MAX_CALLS run at once on a connection, more get RESOURCE_EXHAUSTED. (Ours; Go has no limit.)

A call that is answered by a stream of messages gets them as `data`, and then `end`, or `refuse` if it fails half-way
(ttrpc's PROTOCOL.md, "Non-Unary State Diagrams").
"""

from dataclasses import dataclass

from zeropod.rpc.frames import MAX_MESSAGE, Decoder, Flag, Frame, FrameType, Oversized, encode
from zeropod.rpc.messages.ttrpc_pb2 import Request, Response, Status
from zeropod.rpc.payload import decode
from zeropod.rpc.status import Code, RpcError

MAX_CALLS = 1024
"""Calls that may run at once on one connection. containerd keeps one Wait open for each process, so this is far off."""

MAX_STATUS_MESSAGE = 64 << 10
"""Characters kept of a status message: the text of an error must not be what makes a response too long."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request to be served, and answered with `respond`, or `data` and `end`, or `refuse`."""

    stream: int
    service: str
    method: str
    payload: bytes
    timeout: float | None
    """Seconds that the caller waits, None without a limit. Zero or less: it has given up already."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A frame that broke a rule, to be answered with `refuse`."""

    stream: int
    error: RpcError


class ServerConnection:
    """One connection's state. Feed it what was received; send what the other methods return, each as a whole."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._last_stream = 0
        self._running: set[int] = set()

    def receive(self, data: bytes) -> list[Call | Refusal]:
        """Return the calls and refusals that these bytes complete. Never raises, whatever the bytes are."""
        events: list[Call | Refusal] = []
        for frame in self._decoder.feed(data):
            try:
                call = self._judge(frame)
            except RpcError as error:
                events.append(Refusal(frame.stream, error))
            else:
                if call is not None:
                    self._running.add(call.stream)
                    events.append(call)
        return events

    def receive_end(self) -> None:
        """Note the end of the client's bytes. Raises ProtocolError if it is inside a frame."""
        self._decoder.end()

    def respond(self, stream: int, payload: bytes) -> bytes:
        """Return the frame with a call's result, or with RESOURCE_EXHAUSTED if the result is too long to send."""
        response = Response(status=Status(), payload=payload).SerializeToString()
        if len(response) > MAX_MESSAGE:
            text = f"response of {len(payload)} bytes exceeds the maximum message size of {MAX_MESSAGE}"
            return self.refuse(stream, RpcError(Code.RESOURCE_EXHAUSTED, text))
        self._running.discard(stream)
        return encode(Frame(stream, FrameType.RESPONSE, response))

    def data(self, stream: int, payload: bytes) -> bytes:
        """Return the frame with one of the messages that answer a call. Raises RpcError if it is too long to send."""
        if len(payload) > MAX_MESSAGE:
            text = f"message of {len(payload)} bytes exceeds the maximum message size of {MAX_MESSAGE}"
            raise RpcError(Code.RESOURCE_EXHAUSTED, text)
        return encode(Frame(stream, FrameType.DATA, payload))

    def end(self, stream: int) -> bytes:
        self._running.discard(stream)
        return encode(Frame(stream, FrameType.DATA, b"", Flag.REMOTE_CLOSED | Flag.NO_DATA))

    def refuse(self, stream: int, error: RpcError) -> bytes:
        """Return the frame that ends a stream with an error."""
        self._running.discard(stream)
        # Paths in messages may hold bytes that are not UTF-8, decoded to lone surrogates, which protobuf refuses.
        message = error.message[:MAX_STATUS_MESSAGE].encode(errors="backslashreplace").decode()
        status = Status(code=error.code, message=message)
        return encode(Frame(stream, FrameType.RESPONSE, Response(status=status).SerializeToString()))

    def _judge(self, frame: Frame | Oversized) -> Call | None:
        if isinstance(frame, Oversized):
            text = f"message length {frame.length} exceeds the maximum message size of {MAX_MESSAGE}"
            raise RpcError(Code.RESOURCE_EXHAUSTED, text)
        if frame.stream % 2 == 0:
            raise RpcError(Code.INVALID_ARGUMENT, "stream id must be odd for client initiated streams")
        if frame.type == FrameType.DATA:
            if frame.stream in self._running:
                return None
            raise RpcError(Code.INVALID_ARGUMENT, f"stream {frame.stream} is not open for data")
        if frame.type != FrameType.REQUEST:
            return None
        if frame.stream <= self._last_stream:
            raise RpcError(Code.INVALID_ARGUMENT, "stream id cannot be re-used and must increment")
        self._last_stream = frame.stream
        request = decode(Request, frame.payload)
        if len(self._running) >= MAX_CALLS:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"{MAX_CALLS} calls are running on this connection")
        timeout = request.timeout_nano / 1e9 if request.timeout_nano else None
        return Call(frame.stream, request.service, request.method, request.payload, timeout)
