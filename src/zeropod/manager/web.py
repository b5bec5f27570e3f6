"""The manager's HTTP responses: metrics for Prometheus, liveness and readiness for the kubelet, the page for users."""

from collections.abc import Collection, Iterable

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from zeropod.manager.http_server import Answer, Request, Response, plain
from zeropod.manager.metrics import registry
from zeropod.manager.node import Node
from zeropod.manager.page import site
from zeropod.manager.page.document import Source

PATHS = "/metrics, /healthz, /readyz, and a page at /"


def application(node: Node, page: Source, more: Iterable[Collector] = (), names: Collection[str] = ()) -> Answer:
    """Return the handler of requests; `names` are the page's names besides this machine's addresses."""
    metrics = registry(node, more)

    def serve(request: Request) -> Response:
        name = request.path.removeprefix("/")
        if site.serves(name):
            return site.answer(page, name, request, names)
        status, text = answer(request.method, request.path, node)
        if (status, request.path) == (200, "/metrics"):
            encode, kind = choose_encoder(request.headers.get("accept", ""))
            return Response(status, kind, encode(metrics))
        return plain(status, text)

    return serve


def answer(method: str, path: str, node: Node) -> tuple[int, str]:
    """Return status and text for all paths except the page's; for metrics, the text is replaced."""
    if path not in ("/metrics", "/healthz", "/readyz"):
        return 404, f"nothing here; there are {PATHS}\n"
    if method not in ("GET", "HEAD"):
        return 405, "only GET and HEAD\n"
    if path == "/readyz" and not node.ready:
        return 503, "not all shims of the node have answered yet\n"
    return 200, "ok\n"
