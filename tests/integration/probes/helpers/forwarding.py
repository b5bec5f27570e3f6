"""`kubectl port-forward` in small: containerd's streaming server, spoken to over WebSocket.

Each forwarded port has two channels, data and errors, which are told from each other by the first byte of a message and
open with the port's number. Source of facts: k8s.io/kubelet's pkg/cri/streaming/portforward, websocket.go.
"""

import base64
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO
from urllib.parse import urlsplit

from tests.integration import cri
from tests.integration.patience import patient
from tests.integration.standby.helpers.frames import frame, measure

BINARY, DATA = 2, 0
PROTOCOL = "v4.channel.k8s.io"


class Forwarded:
    """A connection to a port of a pod, made by containerd."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._reader: BinaryIO = connection.makefile("rb")

    def send(self, data: bytes) -> None:
        self._socket.sendall(frame(BINARY, bytes((DATA,)) + data, os.urandom(4)))

    def receive(self) -> bytes:
        """What the pod has sent next. Raises EOFError, ConnectionError with what containerd says is wrong."""
        while True:
            channel, data = self._message()
            if channel == DATA:
                return data
            if len(data) > 2:
                raise ConnectionError(data.decode())

    def open(self, url: str, port: int) -> None:
        parts = urlsplit(url)
        key = base64.b64encode(os.urandom(16)).decode()
        head = [f"GET {parts.path}?port={port} HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket"]
        head += ["Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
        self._socket.sendall("\r\n".join([*head, f"Sec-WebSocket-Protocol: {PROTOCOL}", "", ""]).encode())
        status = self._reader.readline()
        if b" 101 " not in status:
            raise ConnectionError(f"no WebSocket: {status!r}")
        while self._reader.readline().strip():
            pass
        assert {self._message()[1], self._message()[1]} == {port.to_bytes(2, "little")}

    def _message(self) -> tuple[int, bytes]:
        _, more, count = measure(self._exactly(2))
        rest = self._exactly(more)
        payload = self._exactly(int.from_bytes(rest) if more else count)
        return payload[0], payload[1:]

    def _exactly(self, count: int) -> bytes:
        data = self._reader.read(count)
        if len(data) < count:
            raise EOFError("the forwarded connection was closed")
        return data

    def close(self) -> None:
        self._reader.close()


@contextmanager
def port_forward(pod: cri.Pod, port: int) -> Iterator[Forwarded]:
    """As `kubectl port-forward` and a first connection to it."""
    url = pod.cri.port_forward_url(pod.id, [port])
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 80), patient(10)) as connection:
        forwarded = Forwarded(connection)
        try:
            forwarded.open(url, port)
            yield forwarded
        finally:
            forwarded.close()
