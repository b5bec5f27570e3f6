"""A shim's own socket, spoken to without the product's code: what containerd would send, and what it never would.

One connection, one request at a time. A frame is a header of ten bytes (length, stream, type, flags) and a Request (1)
or Response (2).
"""

import json
import os
import socket
import struct
from typing import Self, TypeVar

from google.protobuf.message import Message
from tests.integration.endpoint import Refused
from tests.integration.patience import patient

from zeropod.rpc.messages import task_pb2, ttrpc_pb2

HEADER = struct.Struct(">IIBB")
REQUEST, RESPONSE = 1, 2
SERVICES = ("containerd.task.v3.Task", "containerd.task.v2.Task")

# google.rpc.Code, by number.
CODES = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]

_M = TypeVar("_M", bound=Message)


def address(bundle: str) -> str:
    """Path of the socket of the shim that has this bundle, as containerd keeps it there."""
    bootstrap = os.path.join(bundle, "bootstrap.json")
    if os.path.exists(bootstrap):
        with open(bootstrap) as file:
            return str(json.load(file)["address"]).removeprefix("unix://")
    with open(os.path.join(bundle, "address")) as file:  # protocol version 2
        return file.read().removeprefix("unix://")


class ShimSocket:
    """A connection. Every wait ends after `timeout` seconds with TimeoutError."""

    def __init__(self, path: str, timeout: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(patient(timeout))
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._stream = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_frame(self, stream: int, kind: int, payload: bytes, flags: int = 0) -> None:
        self.send(HEADER.pack(len(payload), stream, kind, flags) + payload)

    def shut(self) -> None:
        """Send no more."""
        self._socket.shutdown(socket.SHUT_WR)

    def receive_frame(self) -> tuple[int, int, bytes] | None:
        """Stream, type and payload of the next frame; None at the end of the connection."""
        header = self._exactly(HEADER.size)
        if header is None:
            return None
        length, stream, kind, _ = HEADER.unpack(header)
        payload = self._exactly(length)
        return None if payload is None else (stream, kind, payload)

    def _exactly(self, count: int) -> bytes | None:
        data = bytearray()
        while len(data) < count:
            try:
                chunk = self._socket.recv(count - len(data))
            except ConnectionResetError:
                return None
            if not chunk:
                return None
            data += chunk
        return bytes(data)

    def request(self, service: str, method: str, payload: bytes) -> ttrpc_pb2.Response:
        """Make a call; the response, whatever its status. Raises ConnectionError when the shim hangs up."""
        stream, self._stream = self._stream, self._stream + 2
        request = ttrpc_pb2.Request(service=service, method=method, payload=payload)
        self.send_frame(stream, REQUEST, request.SerializeToString())
        frame = self.receive_frame()
        if frame is None:
            raise ConnectionError(f"the shim closed the connection instead of answering {method}")
        assert frame[:2] == (stream, RESPONSE), f"an answer to something else: {frame[:2]}"
        return ttrpc_pb2.Response.FromString(frame[2])

    def call(self, method: str, request: Message, answer: type[_M], service: str = SERVICES[0]) -> _M:
        """A task service call. Raises Refused."""
        response = self.request(service, method, request.SerializeToString())
        if response.status.code:
            raise Refused(CODES[response.status.code], response.status.message)
        return answer.FromString(response.payload)

    def connect(self, id: str) -> task_pb2.ConnectResponse:
        for service in SERVICES:
            try:
                return self.call("Connect", task_pb2.ConnectRequest(id=id), task_pb2.ConnectResponse, service)
            except Refused as refused:
                if refused.code != "UNIMPLEMENTED" or service == SERVICES[-1]:
                    raise  # containerd 1.7's shim has the second one alone
        raise AssertionError("there are no services")
