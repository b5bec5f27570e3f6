"""One request of a probe, put to the application as the prober puts it, and what it answers. Sans-IO.

What counts as well is the kubelet's to say: a status from 200 to 399, or SERVING.

Source of facts: Kubernetes' pkg/probe/{http,grpc}, grpc's health/v1/health.proto.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import h2.events
import h11
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import H2Error
from hpack.exceptions import HPACKError
from hyperframe.exceptions import HyperframeError

from zeropod.activator.classify import ProbeKind, ProbeRequest

SERVING = b"\0\0\0\0\2\x08\1"
"""A HealthCheckResponse with status 1, not compressed, after its length."""

MOST = 1 << 16
"""Bytes of an answer beyond which it is none."""

_MALFORMED = (H2Error, HPACKError, HyperframeError, h11.ProtocolError, ValueError)
_GRPC_OK = 0
_ITS_OWN = frozenset({b"grpc-timeout", b"grpc-accept-encoding"})
"""How long the prober waited at the time, and which compressions it understood."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the application said to a probe, as far as the prober looks at it."""

    well: bool
    status: int
    """HTTP's status code; gRPC's, for its probes."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Where HTTP redirects to."""
    body: bytes = b""
    """gRPC's message, with its length."""

    def __str__(self) -> str:
        return f"status {self.status}" + (" but not SERVING" if self.body and not self.well else "")


class ProbeExchange:
    """One request on a new connection: `data_to_send` after the creation and after each `receive`, until it is over.

    The answer is read to its end, even where its beginning says it all: no application likes to be cut off.
    """

    def __init__(self, request: ProbeRequest) -> None:
        self._talk: _Http1 | _Http2 = _Http1(request) if request.kind is ProbeKind.HTTP else _Http2(request)
        self._received = 0
        self.over = False

    @property
    def result(self) -> ProbeResult | None:
        """None as long as there is none; when it is over, for ever."""
        return self._talk.result

    def data_to_send(self) -> bytes:
        data, self._talk.sending = self._talk.sending, b""
        return data

    def receive(self, data: bytes) -> None:
        """What has come from the application; nothing is the end. Never raises."""
        self._received += len(data)
        try:
            ended = self._talk.receive(data)
        except _MALFORMED:
            ended = True
        self.over |= ended or not data or self._received > MOST


class _Http1:
    def __init__(self, request: ProbeRequest) -> None:
        self.result: ProbeResult | None = None
        self._connection = h11.Connection(h11.CLIENT)
        message = h11.Request(method="GET", target=request.target, headers=list(request.headers))
        self.sending = self._connection.send(message) + (self._connection.send(h11.EndOfMessage()) or b"")

    def receive(self, data: bytes) -> bool:
        self._connection.receive_data(data)
        while True:
            match event := self._connection.next_event():
                case h11.Response():
                    redirects = tuple((name, value) for name, value in event.headers if name == b"location")
                    self.result = ProbeResult(200 <= event.status_code < 400, event.status_code, redirects)
                case h11.InformationalResponse() | h11.Data():
                    pass
                case _:
                    return event is not h11.NEED_DATA


class _Http2:
    def __init__(self, request: ProbeRequest) -> None:
        self.result: ProbeResult | None = None
        self._status, self._body = b"", b""
        self._connection = H2Connection(H2Configuration(header_encoding=None))
        self._connection.initiate_connection()
        headers = [header for header in request.headers if header[0] not in _ITS_OWN]
        self._connection.send_headers(1, headers)
        self._connection.send_data(1, request.body, end_stream=True)
        self.sending = self._connection.data_to_send()

    def receive(self, data: bytes) -> bool:
        ended = False
        for event in self._connection.receive_data(data):
            match event:
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    self._status = _value(event.headers, b"grpc-status") or self._status
                case h2.events.DataReceived():
                    self._body += event.data
                case h2.events.StreamEnded() | h2.events.StreamReset() | h2.events.ConnectionTerminated():
                    ended = True
        self.sending += self._connection.data_to_send()
        if ended and self._status:
            status = int(self._status)
            self.result = ProbeResult(status == _GRPC_OK and self._body == SERVING, status, body=self._body)
        return ended


def _value(headers: Iterable[tuple[object, object]], name: bytes) -> bytes:
    return b"".join(value for key, value in headers if key == name and isinstance(value, bytes))
