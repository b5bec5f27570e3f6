"""The rules a client's frames are held against, without any I/O."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.rpc.connection import MAX_CALLS, Call, Refusal, ServerConnection
from zeropod.rpc.frames import MAX_MESSAGE, Decoder, Flag, Frame, FrameType, ProtocolError, encode
from zeropod.rpc.messages.ttrpc_pb2 import Request, Response
from zeropod.rpc.status import Code, RpcError


def request(stream: int, method: str = "Method", timeout_nano: int = 0) -> bytes:
    message = Request(service="service", method=method, payload=b"payload", timeout_nano=timeout_nano)
    return encode(Frame(stream, FrameType.REQUEST, message.SerializeToString()))


def refusal(connection: ServerConnection, data: bytes) -> tuple[int, Code, str]:
    (event,) = connection.receive(data)
    assert isinstance(event, Refusal)
    return event.stream, event.error.code, event.error.message


def answer(data: bytes) -> tuple[int, Response]:
    (frame,) = Decoder().feed(data)
    assert isinstance(frame, Frame)
    assert frame.type == FrameType.RESPONSE
    return frame.stream, Response.FromString(frame.payload)


def test_a_request_becomes_a_call() -> None:
    expected = Call(1, "service", "Method", b"payload", timeout=None)
    assert ServerConnection().receive(request(1)) == [expected]


@pytest.mark.parametrize(("nanoseconds", "seconds"), [(1_500_000_000, 1.5), (-1_000_000_000, -1.0), (0, None)])
def test_a_timeout_is_given_in_seconds(nanoseconds: int, seconds: float | None) -> None:
    (call,) = ServerConnection().receive(request(1, timeout_nano=nanoseconds))
    assert isinstance(call, Call)
    assert call.timeout == seconds


@pytest.mark.parametrize("stream", [0, 2, 4_294_967_294])
def test_an_even_stream_id_is_refused_on_that_stream(stream: int) -> None:
    refused, code, message = refusal(ServerConnection(), request(stream))
    assert (refused, code) == (stream, Code.INVALID_ARGUMENT)
    assert "odd" in message


@pytest.mark.parametrize("again", [5, 3])
def test_a_stream_id_that_does_not_increase_is_refused(again: int) -> None:
    connection = ServerConnection()
    connection.receive(request(5))
    assert refusal(connection, request(again))[:2] == (again, Code.INVALID_ARGUMENT)


def test_an_undecodable_request_is_refused_and_the_next_one_is_served() -> None:
    connection = ServerConnection()
    data = encode(Frame(1, FrameType.REQUEST, b"\xff\xff\xff"))
    assert refusal(connection, data)[:2] == (1, Code.INVALID_ARGUMENT)
    assert len(connection.receive(request(3))) == 1


def test_an_oversized_request_is_refused_with_resource_exhausted() -> None:
    data = (MAX_MESSAGE + 1).to_bytes(4, "big") + (7).to_bytes(4, "big") + b"\1\0" + bytes(MAX_MESSAGE + 1)
    connection = ServerConnection()
    stream, code, message = refusal(connection, data)
    assert (stream, code) == (7, Code.RESOURCE_EXHAUSTED)
    assert str(MAX_MESSAGE + 1) in message
    assert len(connection.receive(request(9))) == 1


@pytest.mark.parametrize("kind", [0, FrameType.RESPONSE, 4, 255])
def test_frames_of_other_types_are_ignored(kind: int) -> None:
    assert ServerConnection().receive(encode(Frame(1, kind, b"anything"))) == []


def test_data_for_a_running_call_is_ignored_and_for_any_other_stream_refused() -> None:
    connection = ServerConnection()
    connection.receive(request(1))
    data = encode(Frame(1, FrameType.DATA, b"more"))
    assert connection.receive(data) == []
    connection.respond(1, b"")
    assert refusal(connection, data)[:2] == (1, Code.INVALID_ARGUMENT)


def test_more_calls_than_may_run_at_once_are_refused_until_one_ends() -> None:
    connection = ServerConnection()
    for number in range(MAX_CALLS):
        connection.receive(request(2 * number + 1))
    assert refusal(connection, request(2 * MAX_CALLS + 1))[1] == Code.RESOURCE_EXHAUSTED
    connection.refuse(1, RpcError(Code.UNKNOWN, ""))
    (event,) = connection.receive(request(2 * MAX_CALLS + 3))
    assert isinstance(event, Call)


def test_a_response_carries_an_ok_status_that_is_present() -> None:
    # Go clients before ttrpc 1.2 take a response without a status for an error.
    stream, response = answer(ServerConnection().respond(3, b"result"))
    assert (stream, response.payload) == (3, b"result")
    assert response.HasField("status")
    assert response.status.code == Code.OK


def test_a_response_that_is_too_long_becomes_an_error() -> None:
    _, response = answer(ServerConnection().respond(3, bytes(MAX_MESSAGE)))
    assert response.status.code == Code.RESOURCE_EXHAUSTED
    assert "4194304 bytes" in response.status.message


def test_an_endless_error_message_is_cut_to_fit() -> None:
    error = RpcError(Code.INTERNAL, "x" * (MAX_MESSAGE + 1))
    _, response = answer(ServerConnection().refuse(1, error))
    assert response.status.code == Code.INTERNAL


def test_an_error_message_with_undecodable_file_names_is_sent_all_the_same() -> None:
    error = RpcError(Code.NOT_FOUND, "no such file: \udcff")
    _, response = answer(ServerConnection().refuse(1, error))
    assert response.status.message == "no such file: \\udcff"


@given(st.lists(st.binary(max_size=64)))
def test_random_bytes_give_calls_or_refusals_and_never_an_exception(pieces: list[bytes]) -> None:
    connection = ServerConnection()
    for piece in pieces:
        for event in connection.receive(piece):
            assert isinstance(event, Call | Refusal)
    with suppress(ProtocolError):
        connection.receive_end()


@given(st.integers(0, 2**32 - 1), st.integers(0, 255), st.binary(max_size=64))
def test_any_single_frame_is_a_call_a_refusal_or_nothing(stream: int, kind: int, payload: bytes) -> None:
    events = ServerConnection().receive(encode(Frame(stream, kind, payload)))
    assert all(event.stream == stream for event in events)
    assert len(events) <= 1


def frames(data: bytes) -> list[tuple[int, int, bytes, int]]:
    found = Decoder().feed(data)
    return [(frame.stream, frame.type, frame.payload, frame.flags) for frame in found if isinstance(frame, Frame)]


def test_a_stream_is_data_frames_and_one_that_says_it_was_the_last() -> None:
    connection = ServerConnection()
    connection.receive(request(1))
    assert frames(connection.data(1, b"message")) == [(1, FrameType.DATA, b"message", 0)]
    assert frames(connection.data(1, b"")) == [(1, FrameType.DATA, b"", 0)]
    assert frames(connection.end(1)) == [(1, FrameType.DATA, b"", Flag.REMOTE_CLOSED | Flag.NO_DATA)]


def test_a_stream_counts_as_a_call_until_its_end() -> None:
    connection = ServerConnection()
    for stream in range(1, 2 * MAX_CALLS, 2):
        connection.receive(request(stream))
    assert refusal(connection, request(2 * MAX_CALLS + 1))[1] == Code.RESOURCE_EXHAUSTED
    connection.data(1, b"message")
    assert refusal(connection, request(2 * MAX_CALLS + 3))[1] == Code.RESOURCE_EXHAUSTED
    connection.end(1)
    (call,) = connection.receive(request(2 * MAX_CALLS + 5))
    assert isinstance(call, Call)


def test_a_message_that_is_too_long_is_refused() -> None:
    with pytest.raises(RpcError, match="RESOURCE_EXHAUSTED"):
        ServerConnection().data(1, bytes(MAX_MESSAGE + 1))
