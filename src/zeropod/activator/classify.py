"""Classify the first bytes of a connection: a kubelet's probe, or a client's request for the application.

Sans-IO. Strict, because the two errors differ in weight: a probe taken for a request is still answered by the
application, but a request taken for a probe would get a wrong response. So a probe must be complete, alone on its
connection, and identify itself.

Sources: Kubernetes' pkg/probe/{http,grpc}, grpc's health/v1/health.proto, RFC 9113 for HTTP/2's preface.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

import h2.events
import h11

from zeropod.activator import http2

HEALTH = b"/grpc.health.v1.Health/"
AGENT = b"kube-probe/"

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes.fromhex("000000040000000000")
"""An empty SETTINGS frame, which a server without special settings must send first."""
ACKNOWLEDGED = bytes.fromhex("000000040100000000")
"""The client's acknowledgement of it."""

_AGENT_HEADER = b"user-agent"
_METHOD = b"GET "
_FRAME_HEADER = 9
_GIVEN_UP = (h2.events.StreamReset, h2.events.ConnectionTerminated)
"""Events by which the client stops waiting for a response."""

Headers = list[tuple[bytes, bytes]]


class ProbeKind(Enum):
    UNDECIDED = auto()
    """Not enough data yet."""
    AWAITS_SETTINGS = auto()
    """Not enough data, and there may be no more before the server has sent its SETTINGS: gRPC clients wait for them."""
    HTTP = auto()
    """An HTTP probe."""
    GRPC = auto()
    """A gRPC probe: Check of the health service."""
    GRPC_OTHER = auto()
    """Another method of the health service, called by a prober."""
    APPLICATION = auto()
    """Neither: a request for the application."""


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """The request of a probe. Equal ones ask the same, whatever the prober's version and timeout."""

    kind: ProbeKind
    subject: tuple[bytes, ...]
    headers: tuple[tuple[bytes, bytes], ...] = field(default=(), compare=False)
    """With HTTP/2, they include method and path."""
    target: bytes = field(default=b"", compare=False)
    """The target of an HTTP/1 request; with HTTP/2, one of the headers."""
    body: bytes = field(default=b"", compare=False)

    def __str__(self) -> str:
        if self.kind is ProbeKind.HTTP:
            return f"GET {self.target.decode('ascii', 'replace')}"
        return f"gRPC {b''.join(_values(self.headers, b':path')).decode('ascii', 'replace')}"


@dataclass(frozen=True, slots=True)
class Classification:
    kind: ProbeKind
    request: ProbeRequest | None = None
    """The request, for probes only."""


_UNDECIDED, _APPLICATION = Classification(ProbeKind.UNDECIDED), Classification(ProbeKind.APPLICATION)


def classify(data: bytes, limit: int) -> Classification:
    """Classify `data`, everything received so far; more than `limit` bytes are not a probe's. Never raises.

    A result other than undecided can only change to the application's with more data.
    """
    if len(data) > limit:
        return _APPLICATION
    if data.startswith(PREFACE):
        return _http2(data)
    if data.startswith(_METHOD):
        return _http1(data)
    if PREFACE.startswith(data) or _METHOD.startswith(data):
        return _UNDECIDED
    return _APPLICATION


def _http1(data: bytes) -> Classification:
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(data)
        request = connection.next_event()
        if request is h11.NEED_DATA:
            return _UNDECIDED
        if not isinstance(request, h11.Request) or not isinstance(connection.next_event(), h11.EndOfMessage):
            return _APPLICATION
    except h11.RemoteProtocolError:
        return _APPLICATION
    headers = list(request.headers)
    if connection.trailing_data[0] or not _names_prober(headers) or _values(headers, b"upgrade"):
        return _APPLICATION
    if not _values(headers, b"host"):
        return _APPLICATION  # HTTP/1.0 requests could not be repeated
    subject = (request.target, *(b"%s: %s" % header for header in headers if header[0] != _AGENT_HEADER))
    return Classification(ProbeKind.HTTP, ProbeRequest(ProbeKind.HTTP, subject, tuple(headers), request.target))


def _http2(data: bytes) -> Classification:
    try:
        with http2.server() as connection:
            events = connection.receive_data(data)
    except http2.MALFORMED:
        return _APPLICATION
    if any(isinstance(event, _GIVEN_UP) for event in events):
        return _APPLICATION
    requests = [event for event in events if isinstance(event, h2.events.RequestReceived)]
    if not requests:
        greeted = any(isinstance(event, h2.events.RemoteSettingsChanged) for event in events)
        return Classification(ProbeKind.AWAITS_SETTINGS) if greeted else _UNDECIDED
    headers = [(bytes(name), bytes(value)) for name, value in requests[0].headers]
    path = b"".join(_values(headers, b":path"))
    if len(requests) > 1 or not path.startswith(HEALTH) or not _names_prober(headers):
        return _APPLICATION
    if not any(isinstance(event, h2.events.StreamEnded) for event in events):
        return _UNDECIDED
    body = b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived))
    kind = ProbeKind.GRPC if path == HEALTH + b"Check" else ProbeKind.GRPC_OTHER
    subject = (path, *_values(headers, b":authority"), body)
    return Classification(kind, ProbeRequest(kind, subject, tuple(headers), body=body))


def _names_prober(headers: Headers) -> bool:
    agents = _values(headers, _AGENT_HEADER)
    return len(agents) == 1 and agents[0].startswith(AGENT)


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def without_acknowledgement(data: bytes) -> bytes | None:
    """Return an HTTP/2 client's first bytes without its acknowledgement of zeropod's SETTINGS; None until that has
    arrived.

    For a server that takes over the connection and has not sent those SETTINGS: some servers close a connection on an
    acknowledgement of SETTINGS that they have not sent.
    """
    position = len(PREFACE)
    while position + _FRAME_HEADER <= len(data):
        following = position + _FRAME_HEADER + int.from_bytes(data[position : position + 3], "big")
        if data[position : position + _FRAME_HEADER] == ACKNOWLEDGED:
            return data[:position] + data[following:]
        position = following
    return None
