"""Whether a connection's first bytes are a kubelet's probe, or a client's request for the application.

Sans-IO: bytes in, a classification out. Strict, because the two errors do not weigh the same: a probe that is taken for
a request reaches the application, which answers it as well; a request that is taken for a probe gets an answer that
means nothing. So a probe is only what is complete, alone on its connection, and says itself that it is one.

Source of facts: Kubernetes' pkg/probe/{http,grpc}, grpc's health/v1/health.proto, RFC 9113 for HTTP/2's preface.
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
"""An empty SETTINGS frame: what a server has to say first, if it wants nothing special."""
ACKNOWLEDGED = bytes.fromhex("000000040100000000")
"""The client's answer to that."""

_AGENT_HEADER = b"user-agent"
_METHOD = b"GET "
_FRAME_HEADER = 9
_GIVEN_UP = (h2.events.StreamReset, h2.events.ConnectionTerminated)
"""The client does not wait for an answer any more."""

Headers = list[tuple[bytes, bytes]]


class ProbeKind(Enum):
    UNDECIDED = auto()
    """Too little to say."""
    AWAITS_SETTINGS = auto()
    """Too little to say, and there may be no more before the server has sent its SETTINGS: gRPC's clients wait."""
    HTTP = auto()
    """An HTTP probe."""
    GRPC = auto()
    """A gRPC probe: Check of the health service."""
    GRPC_OTHER = auto()
    """Another method of the health service, called by a prober."""
    APPLICATION = auto()
    """None of that: the application's business."""


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """What a probe asks. Two that are equal ask the same, whatever version of the prober does, and however patient."""

    kind: ProbeKind
    subject: tuple[bytes, ...]
    headers: tuple[tuple[bytes, bytes], ...] = field(default=(), compare=False)
    """Those of HTTP/2 include the method and the path."""
    target: bytes = field(default=b"", compare=False)
    """What an HTTP/1 request names; part of the headers in HTTP/2."""
    body: bytes = field(default=b"", compare=False)

    def __str__(self) -> str:
        if self.kind is ProbeKind.HTTP:
            return f"GET {self.target.decode('ascii', 'replace')}"
        return f"gRPC {b''.join(_values(self.headers, b':path')).decode('ascii', 'replace')}"


@dataclass(frozen=True, slots=True)
class Classification:
    kind: ProbeKind
    request: ProbeRequest | None = None
    """Of what is a probe's, and of nothing else."""


_UNDECIDED, _APPLICATION = Classification(ProbeKind.UNDECIDED), Classification(ProbeKind.APPLICATION)


def classify(data: bytes, limit: int) -> Classification:
    """Return what `data`, all that has come so far, is the beginning of; more than `limit` bytes are not a probe's.

    Never raises. Once it is something else than undecided, more bytes can make it the application's and nothing else.
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
        return _APPLICATION  # HTTP/1.0, in which it could not be asked again
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
    """Return an HTTP/2 client's first bytes without its answer to our SETTINGS; None as long as that has not come.

    For a server that takes the connection over and has not sent those SETTINGS: some end a connection on which
    something is acknowledged that they have not said.
    """
    position = len(PREFACE)
    while position + _FRAME_HEADER <= len(data):
        following = position + _FRAME_HEADER + int.from_bytes(data[position : position + 3], "big")
        if data[position : position + _FRAME_HEADER] == ACKNOWLEDGED:
            return data[:position] + data[following:]
        position = following
    return None
