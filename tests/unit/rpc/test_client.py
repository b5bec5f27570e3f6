"""The client over streams in memory, against a server that a test plays frame by frame."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from zeropod.rpc.client import SEND_TIMEOUT, Client, open_client, run_client
from zeropod.rpc.frames import MAX_MESSAGE, Decoder, Flag, Frame, FrameType, encode
from zeropod.rpc.messages.task_pb2 import StateRequest, StateResponse
from zeropod.rpc.messages.ttrpc_pb2 import Request, Response, Status
from zeropod.rpc.status import Code, RpcError


async def state(client: Client, name: str = "a", timeout: float | None = None) -> str:
    response = await client.call("Task", "State", StateRequest(id=name), StateResponse, timeout=timeout)
    return response.id


def answer(stream: int, name: str) -> bytes:
    response = Response(status=Status(), payload=StateResponse(id=name).SerializeToString())
    return encode(Frame(stream, FrameType.RESPONSE, response.SerializeToString()))


async def read_requests(stream: trio.abc.ReceiveStream, count: int) -> list[tuple[int, Request]]:
    decoder = Decoder()
    requests: list[tuple[int, Request]] = []
    while len(requests) < count:
        for frame in decoder.feed(bytes(await stream.receive_some())):
            assert isinstance(frame, Frame)
            assert frame.type == FrameType.REQUEST
            requests.append((frame.stream, Request.FromString(frame.payload)))
    return requests


async def failure_after(reply: Callable[[int], bytes]) -> RpcError:
    """What a call raises to which the server replies like this, before it closes the connection."""
    ours, theirs = trio.testing.memory_stream_pair()
    raised: list[RpcError] = []

    async def call(client: Client) -> None:
        with pytest.raises(RpcError) as info:
            await state(client)
        raised.append(info.value)

    async with run_client(ours) as client, trio.open_nursery() as nursery:
        nursery.start_soon(call, client)
        ((stream, _),) = await read_requests(theirs, 1)
        await theirs.send_all(reply(stream))
        await theirs.aclose()
    return raised[0]


async def test_concurrent_calls_get_their_own_answers_in_whatever_order_they_come() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    results: dict[str, str] = {}

    async def call(client: Client, name: str) -> None:
        results[name] = await state(client, name)

    async with run_client(ours) as client, trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(call, client, str(number))
        requests = await read_requests(theirs, 50)
        assert [stream for stream, _ in requests] == list(range(1, 101, 2))
        for stream, request in reversed(requests):
            await theirs.send_all(answer(stream, "answer to " + StateRequest.FromString(request.payload).id))
    assert results == {str(number): f"answer to {number}" for number in range(50)}


async def test_the_status_of_the_server_is_raised() -> None:
    def refuse(stream: int) -> bytes:
        response = Response(status=Status(code=Code.NOT_FOUND, message="no such container"))
        return encode(Frame(stream, FrameType.RESPONSE, response.SerializeToString()))

    error = await failure_after(refuse)
    assert (error.code, error.message) == (Code.NOT_FOUND, "no such container")


async def test_a_status_code_that_grpc_does_not_know_counts_as_unknown() -> None:
    response = Response(status=Status(code=99, message="?")).SerializeToString()
    error = await failure_after(lambda stream: encode(Frame(stream, FrameType.RESPONSE, response)))
    assert error.code == Code.UNKNOWN


async def test_a_lost_connection_fails_every_waiting_call_and_all_later_ones() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    codes: list[Code] = []

    async def call(client: Client) -> None:
        with pytest.raises(RpcError) as info:
            await state(client)
        codes.append(info.value.code)

    async with run_client(ours) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(call, client)
            await read_requests(theirs, 3)
            await theirs.aclose()
        await call(client)
    assert codes == [Code.UNAVAILABLE] * 4


async def test_an_answer_that_breaks_off_makes_the_server_unavailable() -> None:
    error = await failure_after(lambda stream: answer(stream, "a")[:-1])
    assert error.code == Code.UNAVAILABLE
    assert "bytes into a frame" in error.message


async def test_an_answer_that_cannot_be_decoded_is_an_internal_error() -> None:
    error = await failure_after(lambda stream: encode(Frame(stream, FrameType.RESPONSE, b"\xff\xff")))
    assert error.code == Code.INTERNAL


async def test_a_result_of_another_type_is_an_internal_error_that_names_the_method() -> None:
    response = Response(payload=b"\xff\xff").SerializeToString()
    error = await failure_after(lambda stream: encode(Frame(stream, FrameType.RESPONSE, response)))
    assert error.code == Code.INTERNAL
    assert "State" in error.message


async def test_a_streamed_answer_to_a_unary_call_is_an_internal_error() -> None:
    error = await failure_after(lambda stream: encode(Frame(stream, FrameType.DATA, b"")))
    assert error.code == Code.INTERNAL


async def test_an_answer_of_more_than_4_mib_is_an_error_of_its_call() -> None:
    length = MAX_MESSAGE + 1
    error = await failure_after(
        lambda stream: length.to_bytes(4, "big") + stream.to_bytes(4, "big") + b"\2\0" + bytes(length)
    )
    assert error.code == Code.RESOURCE_EXHAUSTED


async def test_a_request_that_is_too_long_is_not_sent() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    async with run_client(ours) as client:
        with pytest.raises(RpcError, match="RESOURCE_EXHAUSTED"):
            await state(client, "x" * (MAX_MESSAGE + 1))


async def test_a_call_past_its_timeout_fails_and_its_late_answer_disturbs_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with run_client(ours) as client, trio.open_nursery() as nursery:
        with pytest.raises(RpcError, match="DEADLINE_EXCEEDED"):
            await state(client, timeout=1.5)
        assert trio.current_time() == pytest.approx(1.5)
        ((late, request),) = await read_requests(theirs, 1)
        assert request.timeout_nano == 1_500_000_000

        async def serve_late_and_next() -> None:
            ((stream, _),) = await read_requests(theirs, 1)
            await theirs.send_all(answer(late, "late") + answer(stream, "next"))

        nursery.start_soon(serve_late_and_next)
        assert await state(client) == "next"


async def test_a_call_that_is_given_up_while_it_is_sent_leaves_no_half_frame() -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with run_client(ours) as client, trio.open_nursery() as nursery:
        with trio.CancelScope() as given_up:
            nursery.start_soon(read_one_byte_and_cancel, theirs, given_up)
            await state(client, "x" * 1000)
        assert given_up.cancelled_caught
        nursery.start_soon(answer_second, theirs)
        assert await state(client) == "second"


async def read_one_byte_and_cancel(stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
    first = bytes(await stream.receive_some(1))
    scope.cancel()
    decoder = Decoder()
    decoder.feed(first)
    while not decoder.feed(bytes(await stream.receive_some())):
        pass


async def answer_second(stream: trio.abc.Stream) -> None:
    ((number, _),) = await read_requests(stream, 1)
    await stream.send_all(answer(number, "second"))


async def test_a_server_that_takes_no_request_counts_as_lost(autojump_clock: trio.testing.MockClock) -> None:
    ours, _ = trio.testing.lockstep_stream_pair()
    async with run_client(ours) as client:
        with pytest.raises(RpcError, match="UNAVAILABLE: the server took no request"):
            await state(client)
    assert trio.current_time() == pytest.approx(SEND_TIMEOUT)


async def test_an_error_inside_the_block_comes_out_as_it_is_and_closes_the_connection() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    with pytest.raises(LookupError):
        async with run_client(ours):
            raise LookupError
    assert await theirs.receive_some() == b""


async def test_a_socket_that_nobody_listens_on_is_unavailable_and_named(tmp_path: Path) -> None:
    path = tmp_path / "nobody"
    with pytest.raises(RpcError, match=f"UNAVAILABLE: {path}: No such file"):
        async with open_client(path):
            pass


@given(st.lists(st.binary(min_size=1, max_size=64)))
async def test_a_server_that_sends_random_bytes_fails_calls_with_an_rpc_error(pieces: list[bytes]) -> None:
    error = await failure_after(lambda _: b"".join(pieces))
    assert error.code in {Code.UNAVAILABLE, Code.INTERNAL, Code.RESOURCE_EXHAUSTED, Code.UNKNOWN}


# Streams


def data(stream: int, name: str, flags: int = 0) -> bytes:
    return encode(Frame(stream, FrameType.DATA, StateResponse(id=name).SerializeToString(), flags))


@pytest.mark.parametrize(
    ("frames", "names"),
    [
        ([("a", 0), ("b", 0), ("", Flag.REMOTE_CLOSED | Flag.NO_DATA)], ["a", "b"]),
        ([("a", 0), ("b", Flag.REMOTE_CLOSED)], ["a", "b"]),  # the last message may say that it is
        ([("", 0), ("", Flag.REMOTE_CLOSED)], ["", ""]),  # a message of nothing but defaults is one
    ],
)
async def test_both_ways_to_end_a_stream_are_understood(frames: list[tuple[str, int]], names: list[str]) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    found = []
    async with run_client(ours) as client:
        async with client.stream("Task", "Watch", StateRequest(), StateResponse) as receive:
            (frame,) = Decoder().feed(bytes(await theirs.receive_some()))
            assert isinstance(frame, Frame)
            assert (frame.type, frame.flags) == (FrameType.REQUEST, Flag.REMOTE_CLOSED)
            for name, flags in frames:
                await theirs.send_all(data(frame.stream, name, flags))
            while (message := await receive()) is not None:
                found.append(message.id)
    assert found == names


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (b"", Code.UNAVAILABLE),
        (encode(Frame(1, 9, b"")), Code.INTERNAL),
        (encode(Frame(1, FrameType.DATA, b"\xff")), Code.INTERNAL),
        (encode(Frame(1, FrameType.RESPONSE, b"\xff")), Code.INTERNAL),
        (b"\xff" * 10, Code.UNAVAILABLE),
    ],
)
async def test_what_is_no_stream_is_an_error_and_no_end(reply: bytes, code: Code) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with run_client(ours) as client:
        async with client.stream("Task", "Watch", StateRequest(), StateResponse) as receive:
            await theirs.send_all(reply)
            await theirs.aclose()
            with pytest.raises(RpcError) as raised:
                await receive()
    assert raised.value.code == code
