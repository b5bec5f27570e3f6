"""Serve the page's files and its document to browsers, with headers that keep scripts of other sites out.

Readers need no password, but must request the page by an address or a name of this server. Otherwise another site could
resolve its own name to this address (DNS rebinding), and its scripts could read the page.
"""

import hashlib
import ipaddress
import socket
from collections.abc import Callable, Collection, Iterable
from functools import cache
from importlib.resources import files
from urllib.parse import parse_qs

from zeropod.manager.http_server import PLAIN, Header, Request, Response
from zeropod.manager.page.document import Source, pieces

DATA = "data.json"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_NAMES = (
    *("index.html", "icon.svg"),
    *("page.css", "panels.css", "lanes.css", "details.css", "narrow.css"),
    *("page.js", "model.js", "words.js", "draw.js", "lanes.js", "panels.js", "details.js"),
)
FILES = {
    name.replace("index.html", ""): (name, f"{_TYPES[name[name.rindex('.') :]]}; charset=utf-8") for name in _NAMES
}
"""Files and their content types, by their names in a URL."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


def serves(name: str) -> bool:
    """Return whether there is such a file; the name has no leading slash."""
    return name == DATA or name in FILES


def answer(source: Source, name: str, request: Request, names: Collection[str]) -> Response:
    """Return the response to a request for a served file; `names` are additional names of this server."""
    host = request.headers.get("host", "")
    if request.method not in ("GET", "HEAD"):
        return _answer(405, PLAIN, b"only GET and HEAD\n")
    if not is_own(host, names):
        text = f"{host!r} is not a name of this page: use an address, localhost, or what --page-host names\n"
        return _answer(421, PLAIN, text.encode())
    if name == DATA:
        asked = parse_qs(request.query)
        run, after = asked.get("run", [""])[0], asked.get("after", ["0"])[0]
        known = int(after) if after.isascii() and after.isdigit() and len(after) < 16 else 0
        body = (piece.encode() for piece in pieces(source, run, known))
        return _answer(200, "application/json", body, [(b"cache-control", b"no-store")])
    content, tag = _file(FILES[name][0])
    more = [(b"cache-control", b"no-cache"), (b"etag", tag)]
    if request.headers.get("if-none-match") == tag.decode():
        return _answer(304, FILES[name][1], b"", more)
    return _answer(200, FILES[name][1], content, more)


def is_own(host: str, names: Collection[str] = (), own: Callable[[], str] = socket.gethostname) -> bool:
    """Return whether a Host header is an address, or a name that no other web site can have."""
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    name = name.rstrip(".")
    if name in ("localhost", own().lower(), *names) or name.endswith((".svc", ".svc.cluster.local")):
        return bool(name)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@cache
def _file(name: str) -> tuple[bytes, bytes]:
    """Return a file's content and its ETag."""
    content = (files("zeropod.manager.page") / "static" / name).read_bytes()
    return content, b'"' + hashlib.sha256(content).hexdigest()[:16].encode() + b'"'


def _answer(status: int, kind: str, body: bytes | Iterable[bytes], more: Iterable[Header] = ()) -> Response:
    return Response(status, kind, body, (*HEADERS, *more))
