"""The server over streams in memory: what becomes of calls, of their clients, and of what goes wrong."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from zeropod.rpc.client import Client, open_client, run_client
from zeropod.rpc.frames import MAX_MESSAGE, Decoder, Frame, FrameType, encode
from zeropod.rpc.messages.task_pb2 import KillRequest, StateRequest, StateResponse, WaitRequest
from zeropod.rpc.messages.ttrpc_pb2 import Request, Response
from zeropod.rpc.server import SEND_TIMEOUT, Handler, Services, serve, serve_connection, streaming, unary
from zeropod.rpc.status import Code, RpcError

Function = Callable[[StateRequest], Awaitable[StateResponse]]


def services(**functions: Function) -> Services:
    return {"Task": {name: unary(StateRequest, function) for name, function in functions.items()}}


async def echo(request: StateRequest) -> StateResponse:
    return StateResponse(id=request.id)


@asynccontextmanager
async def serving(table: Services) -> AsyncIterator[Client]:
    """A client of a server with these services."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, table)
        async with run_client(ours) as client:
            yield client


async def state(client: Client, name: str, method: str = "State", timeout: float | None = None) -> str:
    response = await client.call("Task", method, StateRequest(id=name), StateResponse, timeout=timeout)
    return response.id


async def failure(client: Client, method: str, timeout: float | None = None) -> tuple[Code, str]:
    with pytest.raises(RpcError) as raised:
        await state(client, "any", method, timeout)
    return raised.value.code, raised.value.message


def request(stream: int, method: str, message: StateRequest | None = None) -> bytes:
    payload = (message or StateRequest()).SerializeToString()
    inner = Request(service="Task", method=method, payload=payload).SerializeToString()
    return encode(Frame(stream, FrameType.REQUEST, inner))


async def read_answers(stream: trio.abc.ReceiveStream, count: int) -> dict[int, Response]:
    decoder = Decoder()
    answers: dict[int, Response] = {}
    while len(answers) < count:
        for frame in decoder.feed(bytes(await stream.receive_some())):
            assert isinstance(frame, Frame)
            answers[frame.stream] = Response.FromString(frame.payload)
    return answers


async def test_a_call_gets_its_response() -> None:
    async with serving(services(State=echo)) as client:
        assert await state(client, "a") == "a"


async def test_an_unknown_service_is_unimplemented_so_that_containerd_tries_the_next_name() -> None:
    async with serving(services(State=echo)) as client:
        with pytest.raises(RpcError, match="UNIMPLEMENTED: service task-v3"):
            await client.call("task-v3", "State", StateRequest(), StateResponse)


async def test_an_unknown_method_is_unimplemented() -> None:
    async with serving(services(State=echo)) as client:
        assert await failure(client, "Stat") == (Code.UNIMPLEMENTED, "method Stat of service Task")


async def test_an_rpc_error_of_a_handler_reaches_the_caller() -> None:
    async def refuse(request: StateRequest) -> StateResponse:
        raise RpcError(Code.NOT_FOUND, f"container {request.id} does not exist")

    async with serving(services(State=refuse)) as client:
        assert await failure(client, "State") == (Code.NOT_FOUND, "container any does not exist")


async def test_an_rpc_error_raised_in_a_nursery_of_the_handler_keeps_its_code() -> None:
    async def refuse(request: StateRequest) -> StateResponse:
        async with trio.open_nursery():
            raise RpcError(Code.ABORTED, "inside")

    async with serving(services(State=refuse)) as client:
        assert await failure(client, "State") == (Code.ABORTED, "inside")


async def test_an_unexpected_error_is_answered_and_logged_and_the_connection_lives_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def crash(request: StateRequest) -> StateResponse:
        raise FileNotFoundError(2, "No such file or directory", "/bundle/config.json")

    async with serving(services(Crash=crash, State=echo)) as client:
        code, message = await failure(client, "Crash")
        assert code == Code.UNKNOWN
        assert "FileNotFoundError" in message
        assert "/bundle/config.json" in message
        assert await state(client, "after") == "after"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "Task/Crash" in caplog.text


async def test_a_payload_that_cannot_be_decoded_is_an_invalid_argument() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, services(State=echo))
        inner = Request(service="Task", method="State", payload=b"\xff\xff").SerializeToString()
        await ours.send_all(encode(Frame(1, FrameType.REQUEST, inner)))
        status = (await read_answers(ours, 1))[1].status
        assert status.code == Code.INVALID_ARGUMENT
        assert "containerd.task.v3.StateRequest" in status.message
        nursery.cancel_scope.cancel()


async def test_a_handler_that_outlives_the_callers_timeout_is_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ended = trio.Event()

    async def hang(request: StateRequest) -> StateResponse:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, services(Hang=hang, State=echo))
        inner = Request(service="Task", method="Hang", timeout_nano=2_500_000_000).SerializeToString()
        await ours.send_all(encode(Frame(1, FrameType.REQUEST, inner)))
        answers = await read_answers(ours, 1)
        assert answers[1].status.code == Code.DEADLINE_EXCEEDED
        assert "2.5 s" in answers[1].status.message
        assert trio.current_time() == pytest.approx(2.5)
        assert ended.is_set()
        await ours.send_all(request(3, "State"))
        assert (await read_answers(ours, 1))[3].status.code == Code.OK
        nursery.cancel_scope.cancel()


async def test_a_deadline_that_has_passed_already_is_exceeded() -> None:
    async def wait(request: StateRequest) -> StateResponse:
        await trio.sleep_forever()
        raise AssertionError

    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, services(Wait=wait))
        inner = Request(service="Task", method="Wait", timeout_nano=-1).SerializeToString()
        await ours.send_all(encode(Frame(1, FrameType.REQUEST, inner)))
        assert (await read_answers(ours, 1))[1].status.code == Code.DEADLINE_EXCEEDED
        nursery.cancel_scope.cancel()


async def test_a_timeout_of_the_handlers_own_is_not_taken_for_the_callers() -> None:
    async def give_up(request: StateRequest) -> StateResponse:
        raise trio.TooSlowError("runc did not end")

    async with serving(services(State=give_up)) as client:
        assert await failure(client, "State", timeout=60) == (Code.UNKNOWN, "TooSlowError: runc did not end")


async def test_many_calls_run_at_once_and_are_answered_as_they_end() -> None:
    gates = {str(number): trio.Event() for number in range(100)}
    order: list[str] = []

    async def gated(request: StateRequest) -> StateResponse:
        await gates[request.id].wait()
        return StateResponse(id=request.id)

    async with serving(services(State=gated)) as client:

        async def call(name: str) -> None:
            assert await state(client, name) == name
            order.append(name)
            if int(name):
                gates[str(int(name) - 1)].set()

        async with trio.open_nursery() as nursery:
            for name in gates:
                nursery.start_soon(call, name)
            gates["99"].set()
    assert order == [str(number) for number in reversed(range(100))]


async def test_a_response_of_more_than_4_mib_is_an_error_of_that_call_only() -> None:
    async def long(request: StateRequest) -> StateResponse:
        return StateResponse(id="x" * (MAX_MESSAGE + 1))

    async with serving(services(Long=long, State=echo)) as client:
        assert (await failure(client, "Long"))[0] == Code.RESOURCE_EXHAUSTED
        assert await state(client, "after") == "after"


async def test_a_request_of_4_mib_and_one_byte_is_refused_and_the_next_one_served() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, services(State=echo))
        await ours.send_all((MAX_MESSAGE + 1).to_bytes(4, "big") + b"\0\0\0\1\1\0" + bytes(MAX_MESSAGE + 1))
        await ours.send_all(request(3, "State"))
        answers = await read_answers(ours, 2)
        assert answers[1].status.code == Code.RESOURCE_EXHAUSTED
        assert answers[3].status.code == Code.OK
        nursery.cancel_scope.cancel()


async def test_a_client_that_goes_away_cancels_waiting_calls_and_lets_changes_end() -> None:
    events: list[str] = []
    started = [trio.Event(), trio.Event()]
    proceed = trio.Event()

    async def wait(request: WaitRequest) -> StateResponse:
        started[0].set()
        try:
            await trio.sleep_forever()
        finally:
            events.append("wait cancelled")
            proceed.set()
        raise AssertionError

    async def change(request: KillRequest) -> StateResponse:
        started[1].set()
        await proceed.wait()
        await trio.lowlevel.checkpoint()
        events.append("change done")
        return StateResponse()

    table: Mapping[str, Mapping[str, Handler]] = {
        "Task": {
            "Wait": unary(WaitRequest, wait, cancel_on_disconnect=True),
            "Kill": unary(KillRequest, change),
        }
    }
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, table)
        await ours.send_all(request(1, "Wait") + request(3, "Kill"))
        for event in started:
            await event.wait()
        await ours.aclose()
    assert events == ["wait cancelled", "change done"]


async def test_a_frame_that_breaks_off_ends_its_connection_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(request(1, "State")[:-1])
    await ours.aclose()
    await serve_connection(theirs, services(State=echo))
    assert "bytes into a frame" in caplog.text


@given(st.lists(st.binary(min_size=1, max_size=64)))
async def test_random_bytes_end_neither_with_an_exception_nor_with_a_hang(pieces: list[bytes]) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, services(State=echo))
        for piece in pieces:
            await ours.send_all(piece)
        await ours.aclose()


async def test_answers_reach_a_slow_reader_whole_and_hold_up_nobody_else() -> None:
    async def long(request: StateRequest) -> StateResponse:
        return StateResponse(id=request.id * 10_000)

    table = services(State=long)
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, table)
        for number in range(5):
            await ours.send_all(request(2 * number + 1, "State", StateRequest(id=str(number))))
        # Five answers wait for this client, while another one is served.
        async with serving(table) as client:
            assert await state(client, "x") == "x" * 10_000
        decoder = Decoder()
        frames: list[Frame] = []
        while len(frames) < 5:
            for frame in decoder.feed(bytes(await ours.receive_some(1_009))):
                assert isinstance(frame, Frame)
                frames.append(frame)
        results = {
            frame.stream: StateResponse.FromString(Response.FromString(frame.payload).payload).id for frame in frames
        }
        assert results == {2 * number + 1: str(number) * 10_000 for number in range(5)}
        nursery.cancel_scope.cancel()


async def test_a_client_that_never_reads_loses_its_connection_in_the_end(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, services(State=echo))
        await ours.send_all(request(1, "State") + request(3, "State"))
    assert trio.current_time() == pytest.approx(SEND_TIMEOUT)
    assert "took no answer" in caplog.text


async def test_the_answer_to_the_call_that_ends_the_server_is_still_sent() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def shutdown(request: StateRequest) -> StateResponse:
            nursery.cancel_scope.cancel()
            return StateResponse(id="bye")

        nursery.start_soon(serve_connection, theirs, services(Shutdown=shutdown))
        with trio.CancelScope(shield=True):
            await ours.send_all(request(1, "Shutdown"))
            answers = await read_answers(ours, 1)
            assert StateResponse.FromString(answers[1].payload).id == "bye"
            assert await ours.receive_some() == b""


async def test_serve_goes_on_after_broken_connections(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with trio.socket.socket(trio.socket.AF_UNIX) as listening:
        await listening.bind(path)
        listening.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, [trio.SocketListener(listening)], services(State=echo))
            for rubbish in [b"", b"GET / HTTP/1.1\r\n\r\n", request(1, "State")[:7], request(1, "State")]:
                async with await trio.open_unix_socket(path) as broken:
                    await broken.send_all(rubbish)
            async with open_client(path) as client:
                assert await state(client, "alive") == "alive"
            nursery.cancel_scope.cancel()


# Streams


async def count(request: StateRequest, send: Callable[[Message], Awaitable[None]]) -> None:
    for number in range(int(request.id)):
        await send(StateResponse(id=str(number)))


def streams(function: Callable[[StateRequest, Callable[[Message], Awaitable[None]]], Awaitable[None]]) -> Services:
    return {"Task": {"Count": streaming(StateRequest, function), "State": unary(StateRequest, echo)}}


async def counted(client: Client, name: str) -> list[str]:
    """Everything that comes on the stream, as far as it has an end."""
    found = []
    async with client.stream("Task", "Count", StateRequest(id=name), StateResponse) as receive:
        while (message := await receive()) is not None:
            found.append(message.id)
    return found


@pytest.mark.parametrize("number", [0, 1, 1000])
async def test_a_stream_has_all_of_its_messages_in_order_and_then_ends(number: int) -> None:
    async with serving(streams(count)) as client:
        assert await counted(client, str(number)) == [str(index) for index in range(number)]
        assert await state(client, "still there") == "still there"


async def test_a_stream_that_fails_half_way_has_delivered_what_came_before() -> None:
    async def fail(request: StateRequest, send: Callable[[Message], Awaitable[None]]) -> None:
        await count(request, send)
        raise RpcError(Code.DATA_LOSS, "lost it")

    async with serving(streams(fail)) as client:
        async with client.stream("Task", "Count", StateRequest(id="2"), StateResponse) as receive:
            assert [await receive(), await receive()] == [StateResponse(id="0"), StateResponse(id="1")]
            with pytest.raises(RpcError, match="DATA_LOSS: lost it"):
                await receive()


async def test_a_message_that_is_too_long_ends_the_stream_with_an_error() -> None:
    async def boast(request: StateRequest, send: Callable[[Message], Awaitable[None]]) -> None:
        await send(StateResponse(id="x" * (MAX_MESSAGE + 1)))

    async with serving(streams(boast)) as client:
        with pytest.raises(RpcError, match="RESOURCE_EXHAUSTED"):
            await counted(client, "0")
        assert await state(client, "still there") == "still there"


async def test_a_stream_ends_with_its_client() -> None:
    over = trio.Event()

    async def watch(request: StateRequest, send: Callable[[Message], Awaitable[None]]) -> None:
        try:
            await send(StateResponse(id="first"))
            await trio.sleep_forever()
        finally:
            over.set()

    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, streams(watch))
        async with run_client(ours) as client:
            async with client.stream("Task", "Count", StateRequest(), StateResponse) as receive:
                first = await receive()
                assert first is not None
                assert first.id == "first"
        with trio.fail_after(1):
            await over.wait()


async def test_who_reads_no_messages_holds_the_sender_up_until_its_connection_is_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    sent = 0

    async def pour(request: StateRequest, send: Callable[[Message], Awaitable[None]]) -> None:
        nonlocal sent
        while True:
            await send(StateResponse(id="x" * 1000))
            sent += 1

    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, streams(pour))
        async with run_client(ours) as client:
            async with client.stream("Task", "Count", StateRequest(), StateResponse):
                await trio.sleep(SEND_TIMEOUT / 2)
                assert 0 < sent < 20
                await trio.sleep(SEND_TIMEOUT)
                assert nursery.child_tasks == frozenset()


async def test_a_method_without_a_stream_refuses_to_be_streamed_in_words() -> None:
    async with serving(streams(count)) as client:
        async with client.stream("Task", "Nothing", StateRequest(), StateResponse) as receive:
            with pytest.raises(RpcError, match="UNIMPLEMENTED"):
                await receive()
