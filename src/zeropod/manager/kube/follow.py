"""A list that is kept up to date: read completely, then watched, and read again after every gap.

After a failure, the last state stays until it is replaced, and the next attempt follows within seconds.
"""

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

from zeropod.manager.kube.client import Client, Event, Object, Query
from zeropod.manager.kube.errors import ApiError, Unreachable
from zeropod.manager.kube.pacing import Backoff

log = logging.getLogger(__name__)

SHORTEST_WATCH = 5.0
"""Seconds; a watch that ends earlier without an event has failed."""

_T = TypeVar("_T")

Key = tuple[str, str]
"""Namespace and name."""


class Follower(Generic[_T]):
    """The objects at one path, each converted by `keep`."""

    def __init__(self, client: Client, path: str, keep: Callable[[Object], _T], query: Query | None = None) -> None:
        self._client, self._path, self._query = client, path, query
        self._keep = keep
        self._backoff = Backoff()
        self._changed = trio.Event()
        self._version = ""
        self._learned: dict[Key, int] = {}
        self.items: dict[Key, _T] = {}
        self.ready = False
        """Whether the list was read once."""
        self.problem = ""
        """Why no changes are received; empty if they are."""

    async def changed(self) -> None:
        """Return at the next change."""
        await self._changed.wait()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            begun = trio.current_time()
            try:
                heard = await self._follow()
            except ApiError as error:
                if error.is_gone:
                    self._version = ""
                if not self.problem:
                    log.warning("cannot follow %s, trying again: %s", self._path, error)
                self.problem = str(error)
                await trio.sleep(self._backoff.failed(error.retry_after))
            else:
                if not heard and trio.current_time() - begun < SHORTEST_WATCH:
                    await trio.sleep(self._backoff.failed())

    async def _follow(self) -> bool:
        """Watch until the server ends the watch; return whether there was any event. Raises ApiError."""
        if not self._version:
            listing = await self._client.list(self._path, self._kept, self._query)
            self.items, self._version, self.ready = dict(listing.items), listing.version, True
            self._learned.clear()
            self._tell()
        heard = False
        async with self._client.watch(self._path, self._version, self._query) as watch:
            if self.problem:
                log.info("follows %s again", self._path)
                self.problem = ""
            while event := await watch.receive():
                heard = True
                self._backoff.succeeded()
                self._version = event.version or self._version
                self._apply(event)
        return heard

    def learn(self, body: Object, *, is_new: bool = False) -> _T:
        """Take over an object from the response to a write, before the watch reports it. Raises Unreachable.

        An unknown one has been deleted meanwhile, unless it may be new.
        """
        key, kept = self._kept(body)
        version = str(body["metadata"].get("resourceVersion", ""))
        if (is_new or key in self.items) and version.isdigit():
            self.items[key], self._learned[key] = kept, int(version)
            self._tell()
        return kept

    def _apply(self, event: Event) -> None:
        if event.kind in ("ADDED", "MODIFIED"):
            key, kept = self._kept(event.object)
            # From before a write of this manager, whose result is known already.
            if event.version.isdigit() and int(event.version) < self._learned.get(key, 0):
                return
            self._learned.pop(key, None)
            self.items[key] = kept
            self._tell()
        elif event.kind == "DELETED":
            self.items.pop(key_of(event.object), None)
            self._learned.pop(key_of(event.object), None)
            self._tell()

    def _kept(self, each: Object) -> tuple[Key, _T]:
        try:
            return key_of(each), self._keep(each)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            # Whatever the response contains, the manager continues.
            raise Unreachable(f"the API server sent an object that is none: {error!r}") from error

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def key_of(each: Object) -> Key:
    """Return an object's namespace (empty for a cluster-wide one) and name."""
    metadata = each["metadata"]
    return str(metadata.get("namespace", "")), str(metadata["name"])
