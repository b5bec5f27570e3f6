"""A unary gRPC call against an HTTP/2 server in memory."""

import struct
from pathlib import Path

import h2.events
import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from hypothesis import given
from hypothesis import strategies as st

from zeropod.rpc import grpc
from zeropod.rpc.grpc import Call
from zeropod.rpc.messages.cri_pb2 import VersionRequest, VersionResponse
from zeropod.rpc.status import Code, RpcError

PATH = "/runtime.v1.RuntimeService/Version"


class Server:
    """Takes the bytes of one call; answers as it is told."""

    def __init__(self) -> None:
        self.connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.connection.initiate_connection()
        self.headers: dict[str, str] = {}
        self.body = b""

    def take(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.headers = {str(name): str(value) for name, value in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                self.body += event.data

    def answer(self, message: bytes | None, status: str | None = "0", said: str = "") -> bytes:
        self.connection.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
        if message is not None:
            self.connection.send_data(1, struct.pack(">BI", 0, len(message)) + message)
        trailers = [("grpc-status", status), ("grpc-message", said)] if status is not None else [("x", "y")]
        self.connection.send_headers(1, trailers, end_stream=True)
        return bytes(self.connection.data_to_send())


def started(request: bytes = b"") -> tuple[Call, Server]:
    call, server = Call(PATH, request, 1.5), Server()
    server.take(call.outgoing())
    return call, server


def test_the_request_is_grpcs() -> None:
    _, server = started(b"hello")
    assert server.headers[":path"] == PATH
    assert server.headers["content-type"] == "application/grpc"
    assert server.headers["grpc-timeout"] == "1500m"
    assert server.body == b"\0\0\0\0\5hello"


@given(st.binary(max_size=3000), st.integers(1, 50))
def test_an_answer_is_read_whatever_its_pieces(message: bytes, size: int) -> None:
    call, server = started()
    data = server.answer(message)
    over = [call.receive(data[start : start + size]) for start in range(0, len(data), size)]
    assert over[-1]
    assert call.answer() == message


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [("5", "no%20such", Code.NOT_FOUND), ("99", "no%20such", Code.UNKNOWN), ("x", "no such", Code.UNKNOWN)],
)
def test_a_refusal_has_the_servers_words(status: str, said: str, code: Code) -> None:
    call, server = started()
    assert call.receive(server.answer(None, status, said))
    with pytest.raises(RpcError, match="no such") as refused:
        call.answer()
    assert refused.value.code is code


def test_an_answer_without_a_status_or_a_message_is_an_error() -> None:
    for message, status in ((b"", None), (None, "0")):
        call, server = started()
        assert call.receive(server.answer(message, status))
        with pytest.raises(RpcError):
            call.answer()


def test_a_reset_and_an_end_are_errors() -> None:
    call, server = started()
    server.connection.reset_stream(1)
    assert call.receive(bytes(server.connection.data_to_send()))
    with pytest.raises(RpcError, match="reset"):
        call.answer()
    call, _ = started()
    with pytest.raises(RpcError, match="ended before"):
        call.receive(b"")


@given(st.binary(min_size=1, max_size=200))
def test_what_is_no_http2_is_an_error_and_nothing_else(data: bytes) -> None:
    call, _ = started()
    try:
        if call.receive(data):
            call.answer()
    except RpcError:
        pass


async def test_a_call_over_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def serve(stream: trio.SocketStream) -> None:
        server = Server()
        while not server.headers:
            server.take(await stream.receive_some())
        await stream.send_all(server.answer(VersionResponse(runtime_version="v2.1.9").SerializeToString()))

    with trio.socket.socket(trio.socket.AF_UNIX) as listening:
        await listening.bind(str(path))
        listening.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listening)])
            answer = await grpc.call(path, PATH, VersionRequest(), VersionResponse, timeout=30)
            nursery.cancel_scope.cancel()
    assert answer.runtime_version == "v2.1.9"


async def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(RpcError) as failed:
        await grpc.call(tmp_path / "none", PATH, VersionRequest(), VersionResponse, timeout=30)
    assert failed.value.code is Code.UNAVAILABLE


async def test_a_server_that_says_nothing_is_given_up(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    path = tmp_path / "socket"
    with trio.socket.socket(trio.socket.AF_UNIX) as listening:
        await listening.bind(str(path))
        listening.listen()
        with pytest.raises(RpcError) as failed:
            await grpc.call(path, PATH, VersionRequest(), VersionResponse, timeout=30)
    assert failed.value.code is Code.DEADLINE_EXCEEDED
