"""Real TLS between managers on this machine: what a node is given, and what another one is refused."""

import base64
import json
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.unit.manager.kube.fake_api import Answer, Asked, FakeApi
from tests.unit.manager.kube.fake_api import status as failure
from tests.unit.manager.migration.build import migration_body, newcomer, pod, pod_body
from tests.unit.manager.migration.world import MIGRATIONS

from zeropod import paths
from zeropod.manager.kube.client import Client, Object
from zeropod.manager.migration import certificate, transfer
from zeropod.manager.migration.identity import Identity, Unproved
from zeropod.manager.migration.peers import LONGEST_LINE, PeerError, connected, read_line, write_line
from zeropod.manager.migration.settings import Settings
from zeropod.manager.migration.source import Source
from zeropod.manager.migration.store import Store
from zeropod.manager.migration.transfer import Transfers, listen

USER = "system:serviceaccount:zeropod-system:zeropod-node"
TOKENS = "/api/v1/namespaces/zeropod-system/serviceaccounts/zeropod-node/token"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


def credential(pod: str) -> str:
    claims = {
        "namespace": "zeropod-system",
        "pod": {"name": pod, "uid": f"uid-{pod}"},
        "serviceaccount": {"name": "zeropod-node"},
    }
    payload = base64.urlsafe_b64encode(json.dumps({"kubernetes.io": claims}).encode()).rstrip(b"=").decode()
    return f"header.{payload}.signature"


class Authority:
    """Of the API server, what makes tokens and looks at them."""

    def __init__(self, api: FakeApi) -> None:
        self.nodes = {"uid-manager-1": "node-1", "uid-manager-2": "node-2", "uid-manager-3": "node-3"}
        self.tokens: dict[str, tuple[str, str]] = {}
        self.user = USER
        self.says_node = True
        self.asked: list[str] = []
        api.rule = self.answer

    def answer(self, asked: Asked) -> Answer | None:
        if asked.path == TOKENS and asked.body:
            spec = asked.body["spec"]
            made = f"token-{len(self.tokens)}"
            self.tokens[made] = (self.nodes[spec["boundObjectRef"]["uid"]], spec["audiences"][0])
            self.asked.append("token")
            return Answer(201, {"status": {"token": made}})
        if asked.path == REVIEWS and asked.body:
            self.asked.append("review")
            spec = asked.body["spec"]
            node, audience = self.tokens.get(spec["token"], ("", ""))
            if not node or audience not in spec["audiences"]:
                return Answer(201, {"status": {"authenticated": False, "error": "no such token"}})
            extra = {"authentication.kubernetes.io/node-name": [node]} if self.says_node else {}
            user = {"username": self.user, "extra": extra}
            return Answer(201, {"status": {"authenticated": True, "audiences": [audience], "user": user}})
        return None


class Node:
    """The transfers of one node's manager."""

    def __init__(self, api: FakeApi, number: int, bandwidth: int = 0) -> None:
        settings = Settings(f"node-{number}", "127.0.0.1", bandwidth=bandwidth)
        self.client = Client(api)
        self.store = Store(self.client)
        self.identity = Identity(self.client, lambda: credential(f"manager-{number}"))
        # Of the source only what looks at claims is needed.
        source = Source(self.client, self.store, None, None, settings)  # type: ignore[arg-type]
        self.transfers = Transfers(self.store, source, self.identity, settings)
        self.port = 0

    async def serve(self, nursery: trio.Nursery) -> None:
        context, name = await certificate.serving()
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(self.transfers.serve_nodes, listeners, context, name)


@pytest.fixture
def authority(api: FakeApi) -> Authority:
    return Authority(api)


@pytest.fixture
async def nodes(
    api: FakeApi, authority: Authority, nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[dict[int, Node]]:
    """Three; what leaves node 1 was claimed by node 2."""
    monkeypatch.setattr(paths, "EXPORTS_SOCKET", str(tmp_path / "exports.sock"))
    monkeypatch.setattr(paths, "TRANSFER_SOCKET", str(tmp_path / "transfer.sock"))
    made = {number: Node(api, number) for number in (1, 2, 3)}
    await made[1].serve(nursery)
    nursery.start_soon(export, listen(paths.EXPORTS_SOCKET))
    put(api, made[1].port)
    for each in made.values():
        nursery.start_soon(each.store.followed.run)
    for each in made.values():
        assert await each.store.until(partial(each.store.get, ("default", "web-1")), 5)
    nursery.start_soon(made[2].transfers.serve_shims, [listen(paths.TRANSFER_SOCKET)])
    yield made
    nursery.cancel_scope.cancel()


def put(api: FakeApi, port: int, phase: str = "Running", **spec: Any) -> Object:
    to = {"targetPod": "web-2", "targetPodUID": "uid-web-2", "targetNode": "node-2", **spec}
    body = migration_body(pod(), **to)
    body["spec"]["containers"][0]["imageServer"] = {"host": "127.0.0.1", "port": port}
    body["status"] = {"containers": [{"name": "main", "condition": {"phase": phase}}]}
    api.put("/api/v1/namespaces/default/pods/web-2", pod_body("web-2", node="node-2", phase="Pending"))
    assert newcomer().uid == "uid-web-2"
    return api.put(f"{MIGRATIONS}/web-1", body)


async def export(listener: trio.SocketListener) -> None:
    """A stand-in for the node's exporter: what is said to it comes back in capitals, `N bytes` as so many."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            asked = await read_line(stream)
            if asked != {"key": "uid-web-1.main"}:
                await write_line(stream, {"error": f"there is no export {asked.get('key')}"})
                return
            await write_line(stream, {"ok": True})
            while said := bytes(await stream.receive_some()):
                if said.endswith(b" bytes"):
                    await stream.send_all(os.urandom(1) * int(said.split()[0]))
                    return
                await stream.send_all(said.upper())

    await trio.serve_listeners(serve, [listener])


ASKED = {"migration": "default/web-1", "container": "main"}


async def shim(asked: Object = ASKED) -> trio.SocketStream:
    stream = await trio.open_unix_socket(paths.TRANSFER_SOCKET)
    await write_line(stream, asked)
    return stream


async def test_a_shim_reaches_what_its_container_has_left_behind(nodes: dict[int, Node]) -> None:
    async with await shim() as stream:
        assert await read_line(stream) == {"ok": True}
        for word in (b"one", b"two"):
            await stream.send_all(word)
            assert await stream.receive_some() == word.upper()
    async with await shim() as stream:
        assert await read_line(stream) == {"ok": True}
        await stream.send_all(b"3000000 bytes")
        got = b"".join([bytes(part) async for part in stream])
        assert got == got[:1] * 3000000
    assert nodes[1].transfers.bytes["sent"] == 3000006
    assert nodes[2].transfers.bytes["received"] == 3000006


async def test_what_is_known_of_each_other_makes_the_next_connection_quick(
    nodes: dict[int, Node], authority: Authority
) -> None:
    migration = nodes[2].store.get(("default", "web-1"))
    assert migration
    assert await nodes[2].transfers.connect(migration) == ""
    assert sorted(authority.asked) == ["review", "review", "token", "token"]
    async with await shim() as stream:
        assert await read_line(stream) == {"ok": True}
    assert len(authority.asked) == 4


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"migration": "default/other", "container": "main"}, "no Migration default/other"),
        ({"migration": "default/web-1", "container": "other"}, "a container other"),
        ({"migration": ["x"], "container": "main"}, "asks for nothing"),
        ({}, "asks for nothing"),
    ],
)
async def test_a_shim_that_asks_for_something_else(nodes: dict[int, Node], asked: Object, why: str) -> None:
    async with await shim(asked) as stream:
        said = await read_line(stream)
    assert why in said["error"]
    assert said["gone"] is True


async def test_what_is_only_not_heard_of_is_not_given_up(nodes: dict[int, Node]) -> None:
    nodes[2].store.followed.problem = "the API server is away"
    async with await shim({**ASKED, "migration": "default/other"}) as stream:
        assert "gone" not in await read_line(stream)


@pytest.mark.parametrize(("phase", "is_gone"), [("Pending", False), ("Failed", True)])
async def test_whether_asking_again_is_of_use_comes_from_the_other_node(
    nodes: dict[int, Node], api: FakeApi, phase: str, is_gone: bool
) -> None:
    before, store = nodes[1].store.get(("default", "web-1")), nodes[1].store
    put(api, nodes[1].port, phase)
    assert await store.until(lambda: store.get(("default", "web-1")) != before or None, 5)
    async with await shim() as stream:
        said = await read_line(stream)
    assert ("nothing to come" in said["error"], said.get("gone", False)) == (True, is_gone)


async def ask(node: Node, source: Node, asked: Object = ASKED, expected: str = "node-1") -> Object:
    async with connected(node.identity, "127.0.0.1", source.port, expected, asked) as stream:
        await stream.send_all(b"hi")
        return {"got": bytes(await stream.receive_some())}


async def test_only_the_node_that_has_claimed_it_gets_it(
    nodes: dict[int, Node], caplog: pytest.LogCaptureFixture
) -> None:
    assert await ask(nodes[2], nodes[1]) == {"got": b"HI"}
    with pytest.raises(PeerError, match="it was claimed by node node-2"):
        await ask(nodes[3], nodes[1])
    assert "node node-3 at 127.0.0.1 is refused" in caplog.text
    assert nodes[1].transfers.refused == 1


@pytest.mark.parametrize(
    ("phase", "spec", "why"),
    [
        ("Pending", {}, "nothing to come"),
        ("Failed", {}, "nothing to come"),
        ("Completed", {}, ""),
        ("Completed", {"revision": "r2"}, "does not replace it"),
        ("Running", {"targetPodUID": ""}, "claimed by node"),
        ("Running", {"sourceNode": "node-3"}, "it is on node node-3"),
        ("Running", {"targetPodUID": "uid-of-another"}, "a pod that is not there"),
        ("Running", {"revision": "r2"}, "does not replace it"),
    ],
)
async def test_a_claim_has_to_be_one(nodes: dict[int, Node], api: FakeApi, phase: str, spec: Object, why: str) -> None:
    before = nodes[1].store.get(("default", "web-1"))
    put(api, nodes[1].port, phase, **spec)
    store = nodes[1].store
    assert await store.until(lambda: store.get(("default", "web-1")) != before or None, 5)
    if why:
        with pytest.raises(PeerError, match=why):
            await ask(nodes[2], nodes[1])
    else:
        assert await ask(nodes[2], nodes[1]) == {"got": b"HI"}


async def test_a_source_that_is_another_node(nodes: dict[int, Node]) -> None:
    with pytest.raises(PeerError, match="is to be node node-3, and is node-1"):
        await ask(nodes[2], nodes[1], expected="node-3")


@pytest.mark.parametrize(
    ("user", "says_node", "why"),
    [
        ("system:serviceaccount:default:thief", True, "of system:serviceaccount:default:thief"),
        (USER, False, "says no node"),
        (USER, True, ""),
    ],
)
async def test_whose_token_it_is(
    nodes: dict[int, Node], authority: Authority, user: str, says_node: bool, why: str
) -> None:
    authority.user, authority.says_node = user, says_node
    token = await nodes[2].identity.token("f", "client")
    if not why:
        assert await nodes[1].identity.node_of(token, "f", "client") == "node-2"
        return
    with pytest.raises(Unproved, match=why):
        await nodes[1].identity.node_of(token, "f", "client")


@asynccontextmanager
async def secure(node: Node) -> AsyncIterator[tuple[trio.abc.Stream, str]]:
    """A connection to a manager, and its certificate's fingerprint."""
    async with await trio.open_tcp_stream("127.0.0.1", node.port) as plain:
        stream = trio.SSLStream(plain, certificate.asking(), https_compatible=True)
        await stream.do_handshake()
        shown = stream.getpeercert(binary_form=True)
        assert shown
        yield stream, certificate.fingerprint(shown)


async def closes(stream: trio.abc.Stream) -> None:
    """Whether nothing is said, and the connection ends."""
    try:
        assert not await stream.receive_some()
    except trio.BrokenResourceError:
        return


async def other_side(node: Node, name: str) -> str:
    return await node.identity.token(name, "server")


async def other_certificate(node: Node, name: str) -> str:
    return await node.identity.token("0" * 64, "client")


async def made_up(node: Node, name: str) -> str:
    return "token-of-nobody"


async def none(node: Node, name: str) -> str:
    return ""


@pytest.mark.parametrize("token", [other_side, other_certificate, made_up, none])
async def test_a_token_that_is_not_for_this_connection(
    nodes: dict[int, Node],
    token: Callable[[Node, str], Awaitable[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with secure(nodes[1]) as (stream, name):
        with trio.fail_after(5):
            await write_line(stream, {"token": await token(nodes[2], name), **ASKED})
            await closes(stream)
    assert "is refused" in caplog.text
    assert nodes[1].transfers.bytes["sent"] == 0


@pytest.mark.parametrize(
    "said", [b"x" * (3 * LONGEST_LINE), b"not JSON\n", b"[]\n", b'{"token":"t"}\nmore', b"[" * 9000 + b"\n", b"\n"]
)
async def test_what_is_no_request(nodes: dict[int, Node], said: bytes) -> None:
    async with secure(nodes[1]) as (stream, _):
        with trio.fail_after(5):
            await stream.send_all(said)
            await closes(stream)
    assert nodes[1].transfers.refused == 1


async def test_without_tls_there_is_nothing(nodes: dict[int, Node]) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", nodes[1].port) as stream:
        with trio.fail_after(5):
            await write_line(stream, {"token": "t", **ASKED})
            # Of TLS there may come a last word.
            said = b"".join([bytes(part) async for part in stream])
    assert b"ok" not in said
    older = certificate.asking()
    older.minimum_version = ssl.TLSVersion.TLSv1_2
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    async with await trio.open_tcp_stream("127.0.0.1", nodes[1].port) as stream:
        with pytest.raises(trio.BrokenResourceError):
            await trio.SSLStream(stream, older).do_handshake()


async def test_a_crowd_of_strangers_is_bounded_and_passes(nodes: dict[int, Node]) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(transfer.MOST):
            await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", nodes[1].port))
        last = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", nodes[1].port))
        with trio.fail_after(5):
            await closes(last)
    assert nodes[1].transfers.refused >= 1
    with trio.fail_after(5):
        assert await ask(nodes[2], nodes[1]) == {"got": b"HI"}


async def test_an_exporter_that_is_not_there(nodes: dict[int, Node]) -> None:
    os.unlink(paths.EXPORTS_SOCKET)
    with pytest.raises(PeerError, match="the exporter of node node-1 does not answer"):
        await ask(nodes[2], nodes[1])


async def test_a_connection_to_the_api_server_that_was_closed(nodes: dict[int, Node], api: FakeApi) -> None:
    for each in nodes.values():
        await each.client.get(f"{MIGRATIONS}/web-1")
    await api.break_connections()
    assert await ask(nodes[2], nodes[1]) == {"got": b"HI"}


async def test_an_api_server_that_makes_no_tokens(nodes: dict[int, Node], api: FakeApi) -> None:
    api.rule = lambda asked: failure(403, "Forbidden") if asked.method == "POST" else None
    with pytest.raises(PeerError, match="no token for this node"):
        await ask(nodes[2], nodes[1])
