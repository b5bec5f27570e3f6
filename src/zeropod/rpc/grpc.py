"""Calls one gRPC method over a Unix socket, for containerd's own services and its CRI plugin.

`Call` is a unary call without I/O: bytes in, bytes out. `call` connects for each call: calls are too rare to keep a
connection.
"""

import math
import os
import struct
from urllib.parse import unquote

import h2.events
import trio
from google.protobuf.message import Message
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import H2Error

from zeropod.rpc.payload import AnyMessage, decode
from zeropod.rpc.status import Code, RpcError

MAX_ANSWER = 16 << 20
"""Bytes of an answer, as gRPC's own servers bound theirs; containerd's configuration takes some 10 kB."""

_PREFIX = struct.Struct(">BI")
_CHUNK = 65536


class Call:
    """One unary call: send `outgoing()`, feed `receive` until it returns True, then read `answer()`."""

    def __init__(self, path: str, request: bytes, timeout: float) -> None:
        self._connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._connection.initiate_connection()
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._reset: int | None = None
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-timeout", f"{math.ceil(timeout * 1000)}m"),
        ]
        stream = self._connection.get_next_available_stream_id()
        self._connection.send_headers(stream, headers)
        # Every request made here fits into the first window (65,535 bytes) and frame (16,384).
        self._connection.send_data(stream, _PREFIX.pack(0, len(request)) + request, end_stream=True)

    def outgoing(self) -> bytes:
        return bytes(self._connection.data_to_send())

    def receive(self, data: bytes) -> bool:
        """Take received bytes, none at the end of the stream; return whether the call is over. Raises RpcError."""
        if not data:
            raise RpcError(Code.UNAVAILABLE, "the connection ended before the answer")
        try:
            events = self._connection.receive_data(data)
        except H2Error as error:
            raise RpcError(Code.INTERNAL, f"it does not speak HTTP/2: {error}") from error
        over = False
        for event in events:
            match event:
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    # Values are text, as header_encoding says; h2's types allow for bytes.
                    self._headers |= {str(name): str(value) for name, value in event.headers}
                case h2.events.DataReceived():
                    self._body += event.data
                    if len(self._body) > MAX_ANSWER:
                        raise RpcError(Code.RESOURCE_EXHAUSTED, f"the answer has more than {MAX_ANSWER} bytes")
                    self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                    self._reset, over = int(event.error_code or 0), True
                case h2.events.StreamEnded():
                    over = True
        return over

    def answer(self) -> bytes:
        """Return the answer's message. Raises RpcError with the status that the server gave."""
        status = self._headers.get("grpc-status")
        if status is None:
            http = self._headers.get(":status", "no status")
            raise RpcError(Code.UNAVAILABLE, f"no gRPC status came (HTTP {http}, reset {self._reset})")
        if status != "0":
            code = Code.from_wire(int(status)) if status.isdecimal() else Code.UNKNOWN
            raise RpcError(code, unquote(self._headers.get("grpc-message", "")))
        if len(self._body) < _PREFIX.size:
            raise RpcError(Code.INTERNAL, "the answer has no message")
        compressed, length = _PREFIX.unpack_from(self._body)
        if compressed or length != len(self._body) - _PREFIX.size:
            raise RpcError(Code.INTERNAL, f"the answer's message of {length} bytes is compressed or not whole")
        return bytes(self._body[_PREFIX.size :])


async def call(
    socket: str | os.PathLike[str],
    path: str,
    request: Message,
    answer: type[AnyMessage],
    *,
    timeout: float,
) -> AnyMessage:
    """Call the method with this path (`/package.Service/Method`) and return its answer, within `timeout` seconds.

    Raises RpcError: UNAVAILABLE if it cannot connect, DEADLINE_EXCEEDED, or the server's error.
    """
    pending = Call(path, request.SerializeToString(), timeout)
    try:
        with trio.fail_after(timeout):
            async with await trio.open_unix_socket(socket) as stream:
                over = False
                while not over:
                    await stream.send_all(pending.outgoing())
                    over = pending.receive(await stream.receive_some(_CHUNK))
    except trio.TooSlowError as error:
        raise RpcError(Code.DEADLINE_EXCEEDED, f"{socket}: no answer within {timeout:g} s") from error
    except trio.BrokenResourceError as error:
        raise RpcError(Code.UNAVAILABLE, f"{socket}: the connection was lost") from error
    except OSError as error:
        raise RpcError(Code.UNAVAILABLE, f"{socket}: {error.strerror or error}") from error
    return decode(answer, pending.answer())
