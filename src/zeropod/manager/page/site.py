"""Answers a browser's requests: the page's files and its document, with headers that leave scripts of others no way in.

A reader needs no password, but has to call the page by an address or a name of its own. Another web site may have its
name lead here (DNS rebinding): a browser would then let that site's scripts read the page.
"""

import hashlib
import ipaddress
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

from hypercorn.typing import ASGISendCallable, HTTPScope

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
"""Files and their types, by their names in a URL."""

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

Header = tuple[bytes, bytes]


def serves(name: str) -> bool:
    """Return whether there is such a file, named without the slash before it."""
    return name == DATA or name in FILES


async def serve(source: Source, name: str, scope: HTTPScope, send: ASGISendCallable, names: Collection[str]) -> None:
    """Answer a request for a file that is served; `names` are further names that are this server's own."""
    headers = {key.lower(): value for key, value in scope["headers"]}
    host = headers.get(b"host", b"").decode("latin-1")
    if scope["method"] not in ("GET", "HEAD"):
        await _answer(send, 405, "text/plain; charset=utf-8", [b"only GET and HEAD\n"])
    elif not is_own(host, names):
        text = f"{host!r} is not a name of this page: use an address, localhost, or what --page-host names\n"
        await _answer(send, 421, "text/plain; charset=utf-8", [text.encode()])
    elif name == DATA:
        asked = parse_qs(scope["query_string"].decode("latin-1"))
        run, after = asked.get("run", [""])[0], asked.get("after", ["0"])[0]
        known = int(after) if after.isascii() and after.isdigit() and len(after) < 16 else 0
        body = (piece.encode() for piece in pieces(source, run, known))
        await _answer(send, 200, "application/json", body, [(b"cache-control", b"no-store")])
    else:
        content, tag = _file(FILES[name][0])
        more = [(b"cache-control", b"no-cache"), (b"etag", tag)]
        if headers.get(b"if-none-match") == tag:
            await _answer(send, 304, FILES[name][1], [], more)
        else:
            await _answer(send, 200, FILES[name][1], [content], more)


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


async def _answer(
    send: ASGISendCallable, status: int, kind: str, body: Iterable[bytes], more: Iterable[Header] = ()
) -> None:
    start: Any = {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-type", kind.encode()), *HEADERS, *more],
    }
    await send(start)
    for piece in _joined(body):
        part: Any = {"type": "http.response.body", "body": piece, "more_body": True}
        await send(part)
    end: Any = {"type": "http.response.body", "body": b"", "more_body": False}
    await send(end)


def _joined(body: Iterable[bytes], size: int = 1 << 15) -> Iterator[bytes]:
    """Yield the same bytes in larger pieces: each one that is sent is a system call."""
    waiting = bytearray()
    for piece in body:
        waiting += piece
        if len(waiting) >= size:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)
