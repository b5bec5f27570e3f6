"""The manager's HTTP endpoints: metrics for Prometheus, liveness and readiness for the kubelet, a page for people."""

import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any

from hypercorn.config import Config
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from prometheus_client import make_asgi_app
from prometheus_client.registry import Collector

from zeropod.manager.metrics import registry
from zeropod.manager.node import Node
from zeropod.manager.page import site
from zeropod.manager.page.document import Source

Application = Callable[[Scope, ASGIReceiveCallable, ASGISendCallable], Awaitable[None]]

PATHS = "/metrics, /healthz, /readyz, and a page at /"


Address = tuple[str, int]


def address(text: str) -> Address:
    """Parse host and port of 0.0.0.0:8080, [::]:8080 or :8080. Raises ValueError for anything else."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("an address and a port such as 0.0.0.0:8080 or [::]:8080")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)


def bind(addresses: Iterable[Address]) -> list[socket.socket]:
    """Return sockets bound to these addresses. Raises OSError naming one that cannot be bound; then none is open."""
    bound: list[socket.socket] = []
    try:
        for host, port in addresses:
            made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            bound.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                made.bind((host, port))
            except OSError as error:
                raise OSError(error.errno, error.strerror or str(error), f"{host}:{port}") from error
    except BaseException:
        for made in bound:
            made.close()
        raise
    return bound


def configuration(sockets: Sequence[socket.socket]) -> Config:
    """Return the configuration of a server on these sockets, which it owns from now on."""
    config = Config()
    # If Hypercorn bound the addresses, it would not close the socket when that fails.
    config.bind = [f"fd://{one.detach()}" for one in sockets]
    config.loglevel = "WARNING"
    config.graceful_timeout = 1.0
    config.read_timeout = 30  # seconds for a client to send its request; scrapers use a new connection for the next
    config.keep_alive_timeout = 90.0
    config.include_server_header = False
    return config


def application(node: Node, page: Source, more: Iterable[Collector] = (), names: Collection[str] = ()) -> Application:
    """Return what answers; `names` are those of the page beside the addresses of this machine."""
    metrics = make_asgi_app(registry(node, more))

    async def serve(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        elif scope["type"] != "http":
            return
        elif scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD"):
            await metrics(scope, receive, send)
        elif site.serves(scope["path"].removeprefix("/")):
            await site.serve(page, scope["path"].removeprefix("/"), scope, send, names)
        else:
            status, text = answer(scope["method"], scope["path"], node)
            await say(send, status, text)

    return serve


def answer(method: str, path: str, node: Node) -> tuple[int, str]:
    """Return status and text for every request but those for metrics and the page."""
    if path not in ("/metrics", "/healthz", "/readyz"):
        return 404, f"nothing here; there are {PATHS}\n"
    if method not in ("GET", "HEAD"):
        return 405, "only GET and HEAD\n"
    if path == "/readyz" and not node.ready:
        return 503, "not all shims of the node have answered yet\n"
    return 200, "ok\n"


async def say(send: ASGISendCallable, status: int, text: str) -> None:
    """Answer with a text."""
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    start: Any = {"type": "http.response.start", "status": status, "headers": headers}
    rest: Any = {"type": "http.response.body", "body": body, "more_body": False}
    await send(start)
    await send(rest)


async def lifespan(receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Agree to the server's start and its end."""
    while True:
        message = await receive()
        done: Any = {"type": f"{message['type']}.complete"}
        await send(done)
        if message["type"] == "lifespan.shutdown":
            return
