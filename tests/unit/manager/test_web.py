"""The HTTP side, over real TCP."""

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import h11
import pytest
import trio
from tests.unit.manager.fakes import FakeShim, listen

from zeropod.manager import http_server
from zeropod.manager.http_server import PLAIN, Request, Response, address, bind, plain, serve, url
from zeropod.manager.node import Node
from zeropod.manager.page.document import Source
from zeropod.manager.page.history import History
from zeropod.manager.web import answer, application
from zeropod.rpc.messages.status_pb2 import ContainerStatus


class Server:
    def __init__(self, node: Node, port: int) -> None:
        self.node = node
        self.port = port

    async def ask(self, path: str, method: str = "GET", *headers: tuple[str, str]) -> tuple[int, dict[str, str], str]:
        """Status, headers and body."""
        connection = h11.Connection(h11.CLIENT)
        head = h11.Request(method=method, target=path, headers=[("host", "localhost"), *headers])
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        status, found, body = 0, dict[str, str](), b""
        with trio.fail_after(60):
            async with stream:
                await stream.send_all((connection.send(head) or b"") + (connection.send(h11.EndOfMessage()) or b""))
                while True:
                    event = connection.next_event()
                    if event is h11.NEED_DATA:
                        connection.receive_data(bytes(await stream.receive_some()))
                    elif isinstance(event, h11.Response):
                        status = event.status_code
                        found = {name.decode(): value.decode() for name, value in event.headers}
                    elif isinstance(event, h11.Data):
                        body += event.data
                    elif isinstance(event, h11.EndOfMessage):
                        return status, found, body.decode()


@pytest.fixture
async def server(place: Path) -> AsyncIterator[Server]:
    node = Node()
    async with trio.open_nursery() as serving:
        sockets = bind([("127.0.0.1", 0)])
        port = sockets[0].getsockname()[1]
        serving.start_soon(serve, sockets, application(node, Source(History(), "node", "")))
        yield Server(node, port)
        serving.cancel_scope.cancel()


async def test_it_is_alive_at_once_and_ready_when_it_knows_the_node(server: Server, nursery: trio.Nursery) -> None:
    assert (await server.ask("/healthz"))[0] == 200
    status, _, text = await server.ask("/readyz")
    assert (status, "not all shims" in text) == (503, True)
    nursery.start_soon(server.node.run)
    with trio.fail_after(60):
        while not server.node.ready:
            await server.node.changed()
    assert (await server.ask("/readyz"))[0] == 200


async def test_metrics_are_what_the_shims_say(server: Server, nursery: trio.Nursery, place: Path) -> None:
    nursery.start_soon(server.node.run)
    shim = FakeShim(ContainerStatus(id="web", namespace="default", may_sleep=True, dozes=1))
    await listen(place / "1.sock", nursery, shim.services())
    with trio.fail_after(60):
        while not server.node.containers:
            await server.node.changed()
    status, headers, text = await server.ask("/metrics")
    assert (status, headers["content-type"].startswith("text/plain; version=")) == (200, True)
    assert 'zeropod_dozes_total{container="web",namespace="default",pod=""} 1.0' in text
    again = (await server.ask("/metrics"))[2]
    one, other = ([line for line in page.splitlines() if line.startswith("zeropod")] for page in (text, again))
    assert one == other


async def test_openmetrics_is_spoken_to_who_asks_for_it(server: Server) -> None:
    _, headers, text = await server.ask("/metrics", "GET", ("accept", "application/openmetrics-text; version=1.0.0"))
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("POST", "/healthz", 405), ("PUT", "/metrics", 405)]
)
async def test_what_is_not_there_is_said(server: Server, method: str, path: str, status: int) -> None:
    found, _, text = await server.ask(path, method)
    assert (found, answer(method, path, server.node)) == (status, (status, text))
    assert text


async def test_a_hundred_clients_that_say_nothing_hold_up_nobody(server: Server) -> None:
    silent = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(100)]
    assert (await server.ask("/healthz"))[0] == 200
    for stream in silent:
        await trio.aclose_forcefully(stream)


async def test_a_client_more_than_there_may_be_is_sent_away(
    server: Server, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    sockets = bind([("127.0.0.1", 0)])
    monkeypatch.setattr(http_server, "CLIENTS", 1)
    nursery.start_soon(serve, sockets, lambda _: plain(200, "ok"))
    port = sockets[0].getsockname()[1]
    first = await trio.open_tcp_stream("127.0.0.1", port)
    async with await trio.open_tcp_stream("127.0.0.1", port) as second:
        with trio.fail_after(60):
            assert await second.receive_some() == b""
    await first.aclose()
    answer = b""
    with trio.fail_after(60):
        while not answer:  # until the server has seen it
            async with await trio.open_tcp_stream("127.0.0.1", port) as next_one:
                with suppress(trio.BrokenResourceError):
                    await next_one.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                    answer = bytes(await next_one.receive_some())
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"\x00\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + bytes(100_000), b"GET / HTT"])
async def test_a_client_that_does_not_speak_http_ends_by_itself(server: Server, sent: bytes) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        with trio.fail_after(60), suppress(trio.BrokenResourceError):
            await stream.send_all(sent)
            await stream.send_eof()
            assert await stream.receive_some() == b""
    assert (await server.ask("/healthz"))[0] == 200


async def test_one_connection_has_several_answers_and_head_has_no_body(server: Server) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        for method, body in ((b"GET", b"ok\n"), (b"HEAD", b""), (b"GET", b"ok\n")):
            await stream.send_all(method + b" /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            with trio.fail_after(60):
                head, _, rest = bytes(await stream.receive_some()).partition(b"\r\n\r\n")
            assert (b"Content-Length: 3" in head, rest) == (True, body)


@pytest.mark.parametrize("name", ["accept", "host", "x"])
async def test_any_byte_may_be_in_a_header(server: Server, name: str) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        host = "" if name == "host" else "Host: x\r\n"
        head = f"GET /metrics HTTP/1.1\r\n{host}{name}: text/plain;\xff\xfe\r\n\r\n"
        await stream.send_all(head.encode("latin-1"))
        with trio.fail_after(60):
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")


async def test_an_answer_that_fails_ends_one_connection_alone(nursery: trio.Nursery) -> None:
    def answer(request: Request) -> Response:
        return Response(200, PLAIN, (b"x" for _ in range(1 // len(request.query))))

    sockets = bind([("127.0.0.1", 0)])
    server = Server(Node(), sockets[0].getsockname()[1])
    nursery.start_soon(serve, sockets, answer)
    with pytest.raises(h11.RemoteProtocolError):
        await server.ask("/")
    assert (await server.ask("/?q"))[::2] == (200, "x")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_large_answer_is_sent_in_pieces(nursery: trio.Nursery, version: str) -> None:
    pieces = [bytes([65 + number % 26]) * 1000 for number in range(1000)]
    sockets = bind([("127.0.0.1", 0)])
    server = Server(Node(), sockets[0].getsockname()[1])
    nursery.start_soon(serve, sockets, lambda _: Response(200, PLAIN, iter(pieces)))
    if version == "1.1":
        status, headers, text = await server.ask("/")
        assert (status, text.encode(), headers["transfer-encoding"]) == (200, b"".join(pieces), "chunked")
        return
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        with trio.fail_after(60):
            answer = b"".join([bytes(data) async for data in stream])
    assert answer.partition(b"\r\n\r\n")[2] == b"".join(pieces)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.0.0.0:8080", ("0.0.0.0", 8080)), ("[::]:1", ("::", 1)), (":8080", ("0.0.0.0", 8080)), ("::1:80", ("::1", 80))],
)
def test_an_address_is_a_host_and_a_port(text: str, expected: tuple[str, int]) -> None:
    assert address(text) == expected


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")])
def test_a_socket_is_told_as_an_address_to_open(host: str, expected: str) -> None:
    (made,) = bind([(host, 0)])
    with made:
        assert url(made) == f"{expected}{made.getsockname()[1]}"


@pytest.mark.parametrize("text", ["", "8080", "localhost", "localhost:", "a:99999", "a:-1", "a:x"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an address and a port"):
        address(text)
