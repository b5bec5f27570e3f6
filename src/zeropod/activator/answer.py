"""What a sleeping container's prober is told: the bytes of an answer, in the prober's protocol. Sans-IO.

What is said is "well": a container that sleeps was well when it fell asleep. It is said only where opening.py is sure
of the question.
"""

import h2.events
import h11
from h2.config import H2Configuration
from h2.connection import H2Connection

from zeropod.activator.opening import Kind

_SERVING = b"\0\0\0\0\2\x08\1"
"""A HealthCheckResponse with status 1, not compressed, after its length."""
_GRPC_UNIMPLEMENTED = b"12"
_GRPC = (b"content-type", b"application/grpc")


def answer(kind: Kind, question: bytes, *, greeted: bool) -> bytes:
    """The answer to a question of this kind; `greeted`: our SETTINGS have been sent before.

    Raises ValueError for a kind that is no probe's.
    """
    match kind:
        case Kind.HTTP:
            return _http1(question)
        case Kind.GRPC | Kind.GRPC_OTHER:
            return _http2(question, well=kind is Kind.GRPC, greeted=greeted)
        case _:
            raise ValueError(f"{kind} is not a question that can be answered")


def _http1(question: bytes) -> bytes:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(question)
    connection.next_event()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"0"), (b"connection", b"close")]
    head = connection.send(h11.Response(status_code=200, reason=b"OK", headers=headers))
    return (head or b"") + (connection.send(h11.EndOfMessage()) or b"")


def _http2(question: bytes, *, well: bool, greeted: bool) -> bytes:
    connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    connection.initiate_connection()
    if greeted:
        connection.data_to_send()
    events = connection.receive_data(question)
    stream = next(event.stream_id for event in events if isinstance(event, h2.events.RequestReceived))
    if well:
        connection.send_headers(stream, [(b":status", b"200"), _GRPC])
        connection.send_data(stream, _SERVING)
        connection.send_headers(stream, [(b"grpc-status", b"0")], end_stream=True)
    else:
        message = (b"grpc-message", b"asleep: only Check is answered")
        status = (b"grpc-status", _GRPC_UNIMPLEMENTED)
        connection.send_headers(stream, [(b":status", b"200"), _GRPC, status, message], end_stream=True)
    return connection.data_to_send()
