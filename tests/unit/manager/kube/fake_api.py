"""An API server in memory: what of Kubernetes' API the manager uses, over real HTTP on streams without a network.

A mock, since the real one gives no conflicts, refusals, expired versions, half answers or silence when a test asks for
them, and knows no test clock. tests/cluster has the same manager against the real one.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h11
import trio
from trio.testing import memory_stream_pair

from zeropod.manager.kube.client import MERGE, Object
from zeropod.manager.kube.errors import Unreachable


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it has arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Object | None

    @property
    def is_write(self) -> bool:
        return self.method in ("POST", "PATCH", "PUT", "DELETE")

    @property
    def is_watch(self) -> bool:
        return "watch" in self.query


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says instead of what it would; `raw` goes out as it is."""

    status: int = 200
    body: Object | bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def status(code: int, reason: str, message: str = "no", **details: Any) -> Answer:
    """A failure in Kubernetes' words."""
    return Answer(code, {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details})


Rule = Callable[[Asked], Answer | None]


class FakeApi:
    """The server, and the access to it that a client gets."""

    host = "api.test"

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.objects: dict[str, Object] = {}
        """By their paths."""
        self.asked: list[Asked] = []
        self.rule: Rule = lambda asked: None
        """What is answered instead, if anything."""
        self.unreachable = False
        self.silent = False
        """Whether it takes connections and requests, and answers none."""
        self.tokens = ["token-0"]
        self.connections = 0
        self.version = 100
        self._events: list[tuple[int, str, str, Object]] = []
        self._oldest = 0
        self._happened = trio.Event()
        self._streams: list[trio.abc.Stream] = []

    @property
    def writes(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.is_write]

    async def connect(self) -> trio.abc.Stream:
        if self.unreachable:
            await trio.lowlevel.checkpoint()
            raise Unreachable("the API server cannot be reached: Connection refused")
        self.connections += 1
        ours, theirs = memory_stream_pair()
        self._streams.append(ours)
        self._nursery.start_soon(self._serve, ours)
        return theirs

    def token(self) -> str:
        return self.tokens[-1]

    def put(self, path: str, body: Object) -> Object:
        """Make an object what it says, as somebody else would."""
        self.version += 1
        stored = copy.deepcopy(body)
        metadata = stored.setdefault("metadata", {})
        metadata["resourceVersion"] = str(self.version)
        known = self.objects.get(path, {}).get("metadata", {})
        metadata.setdefault("uid", known.get("uid", f"uid-{self.version}"))
        kind = "MODIFIED" if path in self.objects else "ADDED"
        self.objects[path] = stored
        self._tell(kind, path, stored)
        return stored

    def remove(self, path: str) -> None:
        self.version += 1
        gone = self.objects.pop(path)
        gone["metadata"]["resourceVersion"] = str(self.version)
        self._tell("DELETED", path, gone)

    def bookmark(self) -> None:
        """Tell all watches of a version without an event."""
        self.version += 1
        self._tell("BOOKMARK", "", {"metadata": {"resourceVersion": str(self.version)}})

    def expire(self) -> None:
        """Forget all events: watches from before have to begin anew."""
        self._oldest = self.version
        self._events.clear()

    async def break_connections(self) -> None:
        streams, self._streams = self._streams, []
        for stream in streams:
            await trio.aclose_forcefully(stream)

    def _tell(self, kind: str, path: str, body: Object) -> None:
        self._events.append((self.version, kind, path, copy.deepcopy(body)))
        self._happened.set()
        self._happened = trio.Event()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            while True:
                asked = await self._next(connection, stream)
                if asked is None:
                    return
                self.asked.append(asked)
                if self.silent:
                    await trio.sleep_forever()
                answer = self.rule(asked)
                if answer is None and asked.is_watch:
                    await self._watch(connection, stream, asked)
                else:
                    await _say(connection, stream, answer or self._answer(asked))
                connection.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
            await trio.aclose_forcefully(stream)

    async def _next(self, connection: h11.Connection, stream: trio.abc.Stream) -> Asked | None:
        request, body = None, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some()))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                parts = urlsplit(request.target.decode())
                query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
                headers = {key.decode(): value.decode() for key, value in request.headers}
                return Asked(request.method.decode(), parts.path, query, headers, json.loads(body) if body else None)
            else:
                return None

    def _answer(self, asked: Asked) -> Answer:
        path = asked.path
        for subresource in ("/resize", "/status"):
            path = path.removesuffix(subresource)
        match asked.method:
            case "GET" if path in self.objects:
                return Answer(200, self.objects[path])
            case "GET" if path.rpartition("/")[2] in KINDS:
                return self._list(asked)
            case "POST" if asked.body is not None:
                made = f"{path}/{asked.body['metadata']['name']}"
                if made in self.objects:
                    return status(409, "AlreadyExists", f"{made} already exists")
                return Answer(201, self.put(made, asked.body))
            case "DELETE" if path in self.objects:
                self.remove(path)
                return Answer(200, {"kind": "Status", "status": "Success"})
            case "PATCH" if asked.body is not None:
                return self._patch(path, asked.body, asked.headers["content-type"])
        return status(404, "NotFound", f"{asked.path} not found")

    def _list(self, asked: Asked) -> Answer:
        items = [body for path, body in sorted(self.objects.items()) if _is_in(path, asked.path)]
        begin, rest = int(asked.query.get("continue", 0)), ""
        if limit := int(asked.query.get("limit", 0)):
            rest = str(begin + limit) if begin + limit < len(items) else ""
            items = items[begin : begin + limit]
        about = {"resourceVersion": str(self.version), "continue": rest}
        return Answer(200, {"kind": "List", "metadata": about, "items": items})

    def _patch(self, path: str, patch: Object, kind: str) -> Answer:
        known, applied = self.objects.get(path), "apply" in kind
        if known is None:
            return Answer(201, self.put(path, patch)) if applied else status(404, "NotFound", f"{path} not found")
        for name in ("uid", "resourceVersion"):
            wanted = patch.get("metadata", {}).get(name)
            if wanted is not None and wanted != known["metadata"].get(name):
                return status(409, "Conflict", f"{name} is another one")
        changed = _merged(known, patch, by_name=kind != MERGE)
        if applied and "status" in patch:
            # What an applier leaves out, it removes; nothing else here is applied twice in parts.
            changed["status"] = patch["status"]
        # What changes nothing has no new version, as in the real one.
        return Answer(200, known if changed == known else self.put(path, changed))

    async def _watch(self, connection: h11.Connection, stream: trio.abc.Stream, asked: Asked) -> None:
        heard = int(asked.query["resourceVersion"])
        headers = [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]
        await stream.send_all(connection.send(h11.Response(status_code=200, headers=headers)) or b"")
        with trio.move_on_after(float(asked.query["timeoutSeconds"])):
            while not self.silent:
                if heard < self._oldest:
                    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
                    await _send_line(connection, stream, {"type": "ERROR", "object": gone})
                    break
                for version, kind, path, body in list(self._events):
                    if version > heard and (kind == "BOOKMARK" or _is_in(path, asked.path)):
                        await _send_line(connection, stream, {"type": kind, "object": body})
                heard = max(heard, self.version)
                await self._happened.wait()
            else:
                await trio.sleep_forever()
        await stream.send_all(connection.send(h11.EndOfMessage()) or b"")


KINDS = ("pods", "zeropods", "migrations", "events", "nodes", "daemonsets", "runtimeclasses")


def _is_in(path: str, of: str) -> bool:
    """Whether an object belongs to a list, of a namespace or of all."""
    return path.startswith(of + "/") or (path.split("/")[-2] == of.rpartition("/")[2] and "/namespaces/" not in of)


def _merged(known: Any, patch: Any, *, by_name: bool) -> Any:
    """A merge patch; `by_name`, lists of what has a name are merged too: all that is needed of the strategic one."""
    if isinstance(patch, dict):
        base = dict(known) if isinstance(known, dict) else {}
        for key, value in patch.items():
            if value is None:
                base.pop(key, None)
            else:
                base[key] = _merged(base.get(key), value, by_name=by_name)
        return base
    lists = by_name and isinstance(patch, list) and isinstance(known, list)
    if lists and all("name" in each for each in (*patch, *known)):
        changes = {each["name"]: each for each in patch}
        return [_merged(each, changes.get(each["name"], {}), by_name=True) for each in known]
    return patch


async def _send_line(connection: h11.Connection, stream: trio.abc.Stream, told: Object) -> None:
    await stream.send_all(connection.send(h11.Data(data=json.dumps(told).encode() + b"\n")) or b"")


async def _say(connection: h11.Connection, stream: trio.abc.Stream, answer: Answer) -> None:
    body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **answer.headers}
    sent = connection.send(h11.Response(status_code=answer.status, headers=list(headers.items()))) or b""
    sent += connection.send(h11.Data(data=body)) or b""
    sent += connection.send(h11.EndOfMessage()) or b""
    await stream.send_all(sent)
