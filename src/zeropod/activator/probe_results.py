"""The probe requests of one container, and its last response to each.

A sleeping container cannot be asked for its health. So its probe requests are remembered and sent to it again before
every sleep; probes meanwhile get the application's own response to the same request. Only an unknown request needs the
application to run. As for the kubelet, healthy means a status from 200 to 399, or SERVING.

Sources: Kubernetes' pkg/probe/{http,grpc}, grpc's health/v1/health.proto.
"""

import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import h2.events
import h11
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection

from zeropod.activator import http2
from zeropod.activator.classify import ProbeKind, ProbeRequest
from zeropod.activator.connect import OurConnections, SocketAddress, connect
from zeropod.kernel import namespace
from zeropod.kernel.lookup import FlowOrigin

log = logging.getLogger(__name__)

ANSWER_WITHIN = 10.0
"""Seconds for a response: as long as the longest nap."""

REQUESTS_REMEMBERED = 16
"""Requests that are remembered. A container has three probes at most, with one request each, or two with a redirect."""

STALE = 240.0
"""Seconds after which a failing request is forgotten if no prober sends it any more, as after a startup probe."""

_CHUNK = 1 << 14  # bytes

SERVING = b"\0\0\0\0\2\x08\1"
"""A HealthCheckResponse with status 1, not compressed, after its length."""

LONGEST_ANSWER = 1 << 16
"""Largest response in bytes; a larger one counts as none."""

_MALFORMED = (*http2.MALFORMED, h11.ProtocolError, ValueError)
_GRPC_OK = 0
_ITS_OWN = frozenset({b"grpc-timeout", b"grpc-accept-encoding"})
"""Headers that differ between probers: their timeout, and the compressions that they support."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The application's response to a probe, as far as a prober evaluates it."""

    well: bool
    status: int
    """The HTTP status code, or gRPC's for its probes."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """The redirect target of an HTTP response."""
    body: bytes = b""
    """gRPC's message, with its length."""

    def __str__(self) -> str:
        return f"status {self.status}" + (" but not SERVING" if self.body and not self.well else "")


@dataclass(frozen=True, slots=True)
class ProbeCheck:
    """A request, and the pod's socket address that it was sent to."""

    target: SocketAddress
    request: ProbeRequest

    def __str__(self) -> str:
        return f"{self.request} on port {self.target[1]}"


@dataclass(slots=True)
class _Known:
    """The state of a known request, and since when (trio's time) its failure counts towards STALE."""

    result: ProbeResult | None
    since: float


class ProbeResults:
    """The results of one container's probes."""

    def __init__(self, netns: namespace.PathOrFd, ours: OurConnections) -> None:
        self._netns = netns
        self._ours = ours
        self._known: dict[ProbeCheck, _Known] = {}

    def result(self, check: ProbeCheck) -> ProbeResult | None:
        """Return the application's last response; None if there is none."""
        known = self._known.get(check)
        return known.result if known else None

    async def ask(self, check: ProbeCheck) -> ProbeResult | None:
        """Ask the running application, and remember its response; None if it does not respond."""
        result = await self._ask(check)
        self._known.pop(check, None)
        self._known[check] = _Known(result, trio.current_time())
        while len(self._known) > REQUESTS_REMEMBERED:
            del self._known[next(iter(self._known))]
        return result

    async def ask_all(self) -> Sequence[str]:
        """Repeat all requests at once, and return failures in words.

        A request that has failed for STALE seconds without being sent by a prober is forgotten.
        """
        async with trio.open_nursery() as nursery:
            for check, known in self._known.items():
                nursery.start_soon(self._ask_again, check, known)
        return [
            f"{check}: {known.result or 'no answer'}"
            for check, known in self._known.items()
            if not _is_well(known.result)
        ]

    async def _ask_again(self, check: ProbeCheck, known: _Known) -> None:
        was_well, known.result = _is_well(known.result), await self._ask(check)
        if was_well or _is_well(known.result):
            known.since = trio.current_time()
        elif trio.current_time() > known.since + STALE and self._known.get(check) is known:
            del self._known[check]

    async def _ask(self, check: ProbeCheck) -> ProbeResult | None:
        exchange = ProbeExchange(check.request)
        with trio.move_on_after(ANSWER_WITHIN), ExitStack() as known:
            try:
                announce = self._ours.announced(FlowOrigin.PROBE, check.target[1])
                async with await connect(check.target, self._netns, announce, known) as stream:
                    while not exchange.over:
                        await stream.send_all(exchange.data_to_send())
                        exchange.receive(await stream.receive_some(_CHUNK))
            except (OSError, trio.BrokenResourceError) as error:
                log.debug("%s: %s", check, error)
        return exchange.result


def _is_well(result: ProbeResult | None) -> bool:
    return result is not None and result.well


class ProbeExchange:
    """One request on a new connection, as bytes: send `data_to_send` after creation and after each `receive`, until it
    is over.

    A response is read to its end even if its beginning is sufficient, because applications log an aborted connection.
    """

    def __init__(self, request: ProbeRequest) -> None:
        self._talk: _Http1 | _Http2 = _Http1(request) if request.kind is ProbeKind.HTTP else _Http2(request)
        self._received = 0
        self.over = False

    @property
    def result(self) -> ProbeResult | None:
        """The response; None until there is one."""
        return self._talk.result

    def data_to_send(self) -> bytes:
        data, self._talk.sending = self._talk.sending, b""
        return data

    def receive(self, data: bytes) -> None:
        """Process data from the application; empty data means the end. Never raises."""
        self._received += len(data)
        try:
            ended = self._talk.receive(data)
        except _MALFORMED:
            ended = True
        self.over |= ended or not data or self._received > LONGEST_ANSWER


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
