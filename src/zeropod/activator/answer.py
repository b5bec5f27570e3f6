"""The response to a probe in place of the container: its bytes, in the prober's protocol. Sans-IO.

It repeats the application's response to the same request (probe_results.py). Only requests that classify.py is sure of
are answered.
"""

import http

import h2.events
import h11
from h2.exceptions import H2Error

from zeropod.activator import http2
from zeropod.activator.classify import ProbeKind
from zeropod.activator.probe_results import ProbeResult

_GRPC = (b"content-type", b"application/grpc")

_REASONS = {status.value: status.phrase.encode() for status in http.HTTPStatus}

UNIMPLEMENTED = ProbeResult(well=False, status=12)
"""The response of a health service to a method that it does not have."""


def answer(kind: ProbeKind, request: bytes, result: ProbeResult, *, greeted: bool) -> bytes | None:
    """Return the response to a request of this kind; `greeted`: zeropod's SETTINGS have been sent before.

    Returns None if the prober does not allow a response, for example with a flow-control window of 0. Raises ValueError
    for a kind that is not a probe's.
    """
    match kind:
        case ProbeKind.HTTP:
            return _http1(request, result)
        case ProbeKind.GRPC | ProbeKind.GRPC_OTHER:
            return _http2(request, result, greeted=greeted)
        case _:
            raise ValueError(f"{kind} cannot be answered")


def _http1(request: bytes, result: ProbeResult) -> bytes:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(request)
    connection.next_event()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"0"), (b"connection", b"close")]
    reason = _REASONS.get(result.status, b"")
    response = h11.Response(status_code=result.status, reason=reason, headers=[*headers, *result.headers])
    return connection.send(response) + (connection.send(h11.EndOfMessage()) or b"")


def _http2(request: bytes, result: ProbeResult, *, greeted: bool) -> bytes | None:
    try:
        with http2.server() as connection:
            if greeted:
                connection.data_to_send()
            events = connection.receive_data(request)
            stream = next(event.stream_id for event in events if isinstance(event, h2.events.RequestReceived))
            status = (b"grpc-status", b"%d" % result.status)
            if result.body:
                connection.send_headers(stream, [(b":status", b"200"), _GRPC])
                connection.send_data(stream, result.body)
                connection.send_headers(stream, [status], end_stream=True)
            else:
                connection.send_headers(stream, [(b":status", b"200"), _GRPC, status], end_stream=True)
            return connection.data_to_send()
    except H2Error:
        return None
