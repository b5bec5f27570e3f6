"""A client of the Kubernetes API for trio: requests with JSON, lists that are read piece by piece, and watches.

Existing client libraries need asyncio, or more memory than the rest of the manager. This one knows no kinds: an object
is its JSON, a path is as in the API's reference. Every request has a timeout, a size limit for its response, and a rate
limit. Nothing is retried here, except when a kept connection turns out to be closed.
"""

import json
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import trio

from zeropod import __version__
from zeropod.manager.kube.access import Access
from zeropod.manager.kube.errors import ApiError, TooLarge, Unreachable
from zeropod.manager.kube.http import Connection
from zeropod.manager.kube.pacing import CHANCE, RateLimit

Object = dict[str, Any]
"""What the API calls a resource, as JSON."""
Query = Mapping[str, str]

FIELD_MANAGER = "zeropod"
TIMEOUT = 15.0
"""Seconds for a request and its response, including a new connection."""
LIST_TIMEOUT = 30.0
WATCH_SECONDS = (240, 480)
"""Bounds of the seconds after which the server ends a watch, which is then resumed; random, so that nodes do not
reconnect at once."""
SILENCE = 75.0
"""Seconds without data after which a watch is given up: bookmarks arrive about every minute."""
PAGE = 20
"""Objects of a page, if the whole list is too long: at most 1.5 MiB each."""
KEPT = 4
"""Connections without a request that are kept."""
STALE = 60.0
"""Seconds after which such a one is not used again: API servers close theirs after 90, and what is created is not asked
for twice."""

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
# The API server reads YAML there, of which JSON is a part, and versions before 1.32 know no other name for it.
APPLY = "application/apply-patch+yaml"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Listing(Generic[_T]):
    """The kept items of a list, and the version from which a watch continues."""

    items: list[_T]
    version: str


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a watch: ADDED, MODIFIED, DELETED, or BOOKMARK, whose object has only a version."""

    kind: str
    object: Object

    @property
    def version(self) -> str:
        """Return the version from which a watch continues after this event."""
        return str(self.object.get("metadata", {}).get("resourceVersion", ""))


def path_of(group_version: str, plural: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """Return the path of an object, or of all of a kind: path_of("v1", "pods", "default", "web-0", "resize")."""
    parts = ["/apis" if "/" in group_version else "/api", group_version]
    parts += ["namespaces", quote(namespace, safe="")] if namespace else []
    parts += [plural, *(quote(part, safe="") for part in (name, subresource) if part)]
    return "/".join(parts)


class Watch:
    """The events of a list as they arrive."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def receive(self) -> Event | None:
        """Return the next event, None after the last. Raises ApiError."""
        try:
            with trio.fail_after(SILENCE):
                line = await self._connection.line()
        except trio.TooSlowError:
            raise Unreachable(f"the API server said nothing for {SILENCE:g} s, not even a bookmark") from None
        if line is None:
            return None
        told = _parsed(line)
        kind, body = told.get("type"), told.get("object")
        if not isinstance(kind, str) or not isinstance(body, dict):
            raise Unreachable("the API server sent an event that is none")
        if kind == "ERROR":
            raise _refusal(body, 500)
        return Event(kind, body)


class Client:
    """Client of one API server; made by `open_client`. Several tasks may use it at once."""

    def __init__(self, access: Access, limit: RateLimit | None = None, chance: random.Random | None = None) -> None:
        self._access = access
        self._limit = limit or RateLimit()
        self._chance = chance or CHANCE
        self._idle: list[tuple[Connection, float]] = []
        """Those that are kept, the last one used last, and since when."""

    async def get(self, path: str, query: Query | None = None) -> Object:
        """Return an object. Raises ApiError, like all methods here."""
        return await self._object("GET", path, query)

    async def create(self, path: str, body: Object) -> Object:
        """Create an object in the list at `path`."""
        return await self._object("POST", path, {"fieldManager": FIELD_MANAGER}, body)

    async def apply(self, path: str, body: Object) -> Object:
        """Apply an object: set these fields, creating it if necessary; fields that only zeropod had set and that are
        missing here are removed."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._object("PATCH", path, query, body, APPLY)

    async def merge_patch(self, path: str, body: Object) -> Object:
        """Change an object's fields by a merge patch: lists are replaced, null removes.

        A uid or resourceVersion in its metadata must match the object's, otherwise there is a Conflict.
        """
        return await self._object("PATCH", path, {"fieldManager": FIELD_MANAGER}, body, MERGE)

    async def strategic_patch(self, path: str, body: Object) -> Object:
        """Change an object's fields by a strategic merge patch: list items are matched by name. Not for custom
        resources."""
        return await self._object("PATCH", path, {"fieldManager": FIELD_MANAGER}, body, STRATEGIC)

    async def delete(self, path: str, uid: str = "") -> None:
        """Delete an object if it has this uid."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}} if uid else None
        await self._request("DELETE", path, None, body)

    async def list(self, path: str, keep: Callable[[Object], _T], query: Query | None = None) -> Listing[_T]:
        """Return the results of `keep` for each object, which are read one by one, so that not all are in memory at
        once.

        The whole list comes from the server's cache; one that is too long is read in pages, which come from etcd.
        """
        asked = dict(query or {})
        try:
            kept, about = _read_list(await self._request("GET", path, {**asked, "resourceVersion": "0"}), keep)
        except TooLarge:
            kept, asked["limit"] = [], str(PAGE)
            while True:
                page, about = _read_list(await self._request("GET", path, asked), keep)
                kept += page
                if not (rest := about.get("continue")):
                    break
                asked["continue"] = rest
        return Listing(kept, str(about.get("resourceVersion", "")))

    @asynccontextmanager
    async def watch(self, path: str, version: str, query: Query | None = None) -> AsyncIterator[Watch]:
        """Watch a list from this version on, until the server ends the watch, which it does every few minutes.

        Raises ApiError, also from the yielded object; `is_gone` if the version is too old.
        """
        await self._limit.wait()
        asked = {
            **(query or {}),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(self._chance.randint(*WATCH_SECONDS)),
        }
        connection: Connection | None = None
        try:
            with _deadline(TIMEOUT, path):
                connection = Connection(await self._access.connect(), self._access.host)
                await self._ask(connection, "GET", f"{path}?{urlencode(asked)}")
            yield Watch(connection)
        finally:
            if connection is not None:
                await connection.aclose()

    async def aclose(self) -> None:
        """Close all kept connections."""
        while self._idle:
            await self._idle.pop()[0].aclose()

    async def _object(
        self, method: str, path: str, query: Query | None = None, body: Object | None = None, kind: str = ""
    ) -> Object:
        return _parsed(await self._request(method, path, query, body, kind))

    async def _request(
        self, method: str, path: str, query: Query | None, body: Object | None = None, kind: str = ""
    ) -> bytes:
        await self._limit.wait()
        target = f"{path}?{urlencode(query)}" if query else path
        encoded = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        with _deadline(LIST_TIMEOUT if method == "GET" else TIMEOUT, path):
            while self._idle:
                connection, since = self._idle.pop()
                if trio.current_time() - since > STALE:
                    await connection.aclose()
                    continue
                # It may have been closed while it was kept, unless the request could have been carried out twice.
                try:
                    return await self._exchange(connection, method, target, encoded, kind)
                except Unreachable:
                    if method == "POST" or connection.has_answered:
                        raise
            connection = Connection(await self._access.connect(), self._access.host)
            return await self._exchange(connection, method, target, encoded, kind)

    async def _exchange(self, connection: Connection, method: str, target: str, body: bytes, kind: str) -> bytes:
        try:
            await self._ask(connection, method, target, body, kind)
            return await connection.body()
        finally:
            if connection.is_reusable and len(self._idle) < KEPT:
                self._idle.append((connection, trio.current_time()))
            else:
                await connection.aclose()

    async def _ask(self, connection: Connection, method: str, target: str, body: bytes = b"", kind: str = "") -> None:
        """Send a request, and return the beginning of its successful response. Raises ApiError."""
        headers = [("User-Agent", f"zeropod/{__version__}"), ("Accept", "application/json")]
        if token := self._access.token():
            headers.append(("Authorization", f"Bearer {token}"))
        if body:
            headers.append(("Content-Type", kind or "application/json"))
        head = await connection.ask(method, target, headers, body)
        if not 200 <= head.status < 300:
            raise refusal(head.status, await connection.body(), head.retry_after)


@asynccontextmanager
async def open_client(access: Access, limit: RateLimit | None = None) -> AsyncIterator[Client]:
    """Open a client; its connections are closed at the end of the block."""
    client = Client(access, limit)
    try:
        yield client
    finally:
        await client.aclose()


def refusal(status: int, body: bytes, retry_after: float = 0.0) -> ApiError:
    """Return the error of a failed response: from a Status, or from any text that a proxy may have sent instead."""
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        return ApiError(status, "", body[:500].decode(errors="replace").strip(), retry_after)
    return _refusal(told, status, retry_after)


def _refusal(told: Object, status: int, retry_after: float = 0.0) -> ApiError:
    details = told.get("details") or {}
    pause = retry_after or float(details.get("retryAfterSeconds") or 0)
    return ApiError(int(told.get("code") or status), str(told.get("reason", "")), str(told.get("message", "")), pause)


def _read_list(body: bytes, keep: Callable[[Object], _T]) -> tuple[list[_T], Object]:
    """Return the kept items, and the list's metadata.

    The fields before the items, in any order of the server, contain no text of users.
    """
    text, decoder, kept = body.decode(errors="replace"), json.JSONDecoder(), []
    begin, mark, _ = text.partition('"items":[')
    place = len(begin) + len(mark)
    try:
        while mark and text[place] != "]":
            item, place = decoder.raw_decode(text, place)
            kept.append(keep(item))
            place += text[place] == ","
        about = decoder.decode(begin + mark + text[place:])["metadata"]
    except (ValueError, LookupError, TypeError) as error:
        raise Unreachable(f"the API server sent a list that is none: {error}") from error
    return kept, about


def _parsed(body: bytes) -> Object:
    try:
        told = json.loads(body)
    except ValueError as error:
        raise Unreachable(f"the API server sent what is not JSON: {error}") from error
    if not isinstance(told, dict):
        raise Unreachable("the API server sent what is not an object")
    return told


@contextmanager
def _deadline(seconds: float, path: str) -> Iterator[None]:
    """Limit the time of a request. Raises Unreachable when it is over."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise Unreachable(f"{path}: no answer within {seconds:g} s") from None
