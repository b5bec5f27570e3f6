"""What a browser gets, over real TCP, and what it is protected from."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from tests.unit.manager.page.scenes import Clock, history
from tests.unit.manager.test_web import Server

from zeropod.manager.http_server import bind, serve
from zeropod.manager.node import Node
from zeropod.manager.page import site
from zeropod.manager.page.document import Source
from zeropod.manager.web import application

STATIC = Path(site.__file__).parent / "static"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    node, source = Node(), Source(history(20, Clock()), "node", "worker-1")
    async with trio.open_nursery() as serving:
        sockets = bind([("127.0.0.1", 0)])
        port = sockets[0].getsockname()[1]
        serving.start_soon(serve, sockets, application(node, source, names=["page.example"]))
        yield Server(node, port)
        serving.cancel_scope.cancel()


def test_every_file_is_served_and_carried() -> None:
    assert {name for name, _ in site.FILES.values()} == {path.name for path in STATIC.iterdir()}


@pytest.mark.parametrize("name", sorted(site.FILES))
async def test_a_file_has_its_type_and_a_policy(server: Server, name: str) -> None:
    status, headers, text = await server.ask(f"/{name}")
    assert (status, text) == (200, (STATIC / (name or "index.html")).read_text())
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    head, about, nothing = await server.ask(f"/{name}", "HEAD")
    assert (head, about, nothing) == (200, headers, "")
    tag = headers["etag"]
    again, about, text = await server.ask(f"/{name}", "GET", ("if-none-match", tag))
    assert (again, text, about["content-security-policy"]) == (304, "", headers["content-security-policy"])


async def test_the_document_is_of_now_and_then_of_what_is_new(server: Server) -> None:
    status, headers, text = await server.ask("/data.json")
    told = json.loads(text)
    assert (status, headers["content-type"], headers["cache-control"]) == (200, "application/json", "no-store")
    assert (told["kind"], told["name"], len(told["containers"]), told["full"]) == ("node", "worker-1", 20, True)
    again = json.loads((await server.ask(f"/data.json?run={told['run']}&after={told['sequence']}"))[2])
    assert (again["full"], again["containers"]) == (False, [])
    for odd in ("after=-1", "after=x", "after=" + "9" * 40, "after=%00", "run=%ff&after=1"):
        assert json.loads((await server.ask(f"/data.json?{odd}"))[2])["full"]


async def test_it_takes_no_orders(server: Server) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert (await server.ask("/", method))[0] == 405
        assert (await server.ask("/data.json", method))[0] == 405
    for path in ("/../__init__.py", "/static/page.js", "/index.html", "/..%2fsite.py", "//page.js", "/page.py"):
        assert (await server.ask(path))[0] == 404


async def test_a_name_of_another_site_gets_nothing(server: Server) -> None:
    port, answers = server.port, []
    for host in ("evil.example", "page.example", f"127.0.0.1:{port}"):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(f"GET /data.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while data := await stream.receive_some():
                answer += data
        answers.append(answer)
    assert answers[0].startswith(b"HTTP/1.1 421")
    assert b"storefront" not in answers[0]
    assert all(answer.startswith(b"HTTP/1.1 200") and b"storefront" in answer for answer in answers[1:])


@pytest.mark.parametrize(
    "host",
    ["10.1.2.3", "10.1.2.3:8080", "[fd00::1]:8080", "[fd00::1]", "localhost", "LOCALHOST:80", "node-1", "localhost.",
     "zeropod-node.zeropod-system.svc:8080", "zeropod-node.zeropod-system.svc.cluster.local", "own.example:1"],
)  # fmt: skip
def test_addresses_and_own_names_are_its_own(host: str) -> None:
    assert site.is_own(host, ["own.example"], lambda: "node-1")


@pytest.mark.parametrize(
    "host",
    ["", " ", ".", ":80", "evil.example", "localhost.evil.example", "10.1.2.3.evil.example", "127.0.0.1.nip.io:8080",
     "svc", "evil.svc.example", "node-1.example", "[evil]", "0x7f.1", "xlocalhost", "own.example.com"],
)  # fmt: skip
def test_other_names_are_not(host: str) -> None:
    assert not site.is_own(host, ["own.example"], lambda: "node-1")


def test_nothing_comes_from_another_host() -> None:
    for path in STATIC.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in "".join(part for part in text.splitlines() if not part.strip().startswith("//")), path.name


def test_no_text_is_taken_for_markup() -> None:
    for path in STATIC.glob("*.js"):
        for dangerous in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
            assert dangerous not in path.read_text()
