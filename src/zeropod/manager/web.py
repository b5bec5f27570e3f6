"""What the manager serves over HTTP: metrics for Prometheus, and whether it is alive and ready for the kubelet."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from hypercorn.config import Config
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from prometheus_client import make_asgi_app

from zeropod.manager.metrics import registry
from zeropod.manager.node import Node

Application = Callable[[Scope, ASGIReceiveCallable, ASGISendCallable], Awaitable[None]]

PATHS = "/metrics, /healthz and /readyz"


def configuration(addresses: Sequence[str]) -> Config:
    """Of the server that listens on these addresses, such as 0.0.0.0:8080."""
    config = Config()
    config.bind = list(addresses)
    config.loglevel = "WARNING"
    config.graceful_timeout = 1.0
    config.read_timeout = 30  # seconds for a client to ask; the next question of a scraper comes on a new connection
    config.keep_alive_timeout = 90.0
    config.include_server_header = False
    return config


def application(node: Node) -> Application:
    metrics = make_asgi_app(registry(node))

    async def serve(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] != "http":
            return
        elif scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD"):
            await metrics(scope, receive, send)
        else:
            status, text = answer(scope["method"], scope["path"], node)
            await _say(send, status, text)

    return serve


def answer(method: str, path: str, node: Node) -> tuple[int, str]:
    """Status and text for everything but the metrics."""
    if path not in ("/metrics", "/healthz", "/readyz"):
        return 404, f"nothing here; there are {PATHS}\n"
    if method not in ("GET", "HEAD"):
        return 405, "only GET and HEAD\n"
    if path == "/readyz" and not node.ready:
        return 503, "not all shims of the node have been heard of yet\n"
    return 200, "ok\n"


async def _say(send: ASGISendCallable, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    start: Any = {"type": "http.response.start", "status": status, "headers": headers}
    rest: Any = {"type": "http.response.body", "body": body, "more_body": False}
    await send(start)
    await send(rest)


async def _lifespan(receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    while True:
        message = await receive()
        done: Any = {"type": f"{message['type']}.complete"}
        await send(done)
        if message["type"] == "lifespan.shutdown":
            return
