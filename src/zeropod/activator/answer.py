"""What a prober is told in a container's stead: the bytes of an answer, in the prober's protocol. Sans-IO.

What is said is what the application said when it was asked the same (asking.py). It is said only where opening.py is
sure of the question.
"""

import http

import h2.events
import h11
from h2.exceptions import H2Error

from zeropod.activator import http2
from zeropod.activator.asking import Outcome
from zeropod.activator.opening import Kind

_GRPC = (b"content-type", b"application/grpc")

_REASONS = {status.value: status.phrase.encode() for status in http.HTTPStatus}

UNIMPLEMENTED = Outcome(well=False, status=12)
"""What a health service says to a call of a method that it does not have."""


def answer(kind: Kind, question: bytes, outcome: Outcome, *, greeted: bool) -> bytes | None:
    """The answer to a question of this kind; `greeted`: our SETTINGS have been sent before.

    None when the prober has left no way to answer, such as a flow-control window of nothing. Raises ValueError for a
    kind that is no probe's.
    """
    match kind:
        case Kind.HTTP:
            return _http1(question, outcome)
        case Kind.GRPC | Kind.GRPC_OTHER:
            return _http2(question, outcome, greeted=greeted)
        case _:
            raise ValueError(f"{kind} is not a question that can be answered")


def _http1(question: bytes, outcome: Outcome) -> bytes:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(question)
    connection.next_event()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"0"), (b"connection", b"close")]
    reason = _REASONS.get(outcome.status, b"")
    response = h11.Response(status_code=outcome.status, reason=reason, headers=[*headers, *outcome.headers])
    return connection.send(response) + (connection.send(h11.EndOfMessage()) or b"")


def _http2(question: bytes, outcome: Outcome, *, greeted: bool) -> bytes | None:
    try:
        with http2.server() as connection:
            if greeted:
                connection.data_to_send()
            events = connection.receive_data(question)
            stream = next(event.stream_id for event in events if isinstance(event, h2.events.RequestReceived))
            status = (b"grpc-status", b"%d" % outcome.status)
            if outcome.body:
                connection.send_headers(stream, [(b":status", b"200"), _GRPC])
                connection.send_data(stream, outcome.body)
                connection.send_headers(stream, [status], end_stream=True)
            else:
                connection.send_headers(stream, [(b":status", b"200"), _GRPC, status], end_stream=True)
            return connection.data_to_send()
    except H2Error:
        return None
