"""All Migrations of the cluster as they are followed, and changes to them that do not undo one another."""

import logging
from collections.abc import Callable
from typing import TypeVar

import trio

from zeropod.manager.kube.client import Client, Object, path_of
from zeropod.manager.kube.errors import ApiError
from zeropod.manager.kube.follow import Follower, Key
from zeropod.manager.kube.pacing import Backoff
from zeropod.manager.migration.names import GROUP_VERSION, PLURAL
from zeropod.manager.migration.resource import Migration, keep

log = logging.getLogger(__name__)

ATTEMPTS = 6
"""Of a change that conflicts with others."""

_T = TypeVar("_T")


class Store:
    """What is known of Migrations."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.followed = Follower(client, path_of(GROUP_VERSION, PLURAL), keep)

    @property
    def all(self) -> list[Migration]:
        return list(self.followed.items.values())

    def get(self, key: Key) -> Migration | None:
        return self.followed.items.get(key)

    async def known(self, seconds: float) -> None:
        """Return when all Migrations are known, or after these seconds: a manager that has just begun knows none."""
        await self.until(lambda: self.followed.ready or None, seconds)

    async def create(self, body: Object) -> Migration:
        """Create one. Raises ApiError, of status 409 if there is one of its name."""
        metadata = body["metadata"]
        path = path_of(GROUP_VERSION, PLURAL, metadata["namespace"])
        return self.followed.learn(await self._client.create(path, body), is_new=True)

    async def delete(self, migration: Migration) -> None:
        """Delete this very one. Raises ApiError, unless it is gone already."""
        try:
            await self._client.delete(_path(migration.key), migration.uid)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
        self.followed.items.pop(migration.key, None)

    async def change(
        self, key: Key, uid: str, edit: Callable[[Migration], Object | None], part: str = ""
    ) -> Migration | None:
        """Change one as it is now by what `edit` returns, which is asked anew when another change was faster.

        Returns how it is then, None if there is none of this uid. Raises ApiError.
        """
        current, backoff = self.get(key), Backoff(0.02, 1.0)
        for attempt in range(ATTEMPTS):
            if attempt:
                await trio.sleep(backoff.failed())
                current = await self._read(key)
            if current is None or current.uid != uid:
                return None
            body = edit(current)
            if body is None:
                return current
            try:
                return self.followed.learn(await self._client.merge_patch(_path(key, part), body))
            except ApiError as error:
                if error.status == 404:
                    return None
                if error.status != 409 or attempt == ATTEMPTS - 1:
                    raise
        return None

    async def _read(self, key: Key) -> Migration | None:
        """Return one as the server has it. Raises ApiError."""
        try:
            return self.followed.learn(await self._client.get(_path(key)), is_new=True)
        except ApiError as error:
            if error.status != 404:
                raise
            self.followed.items.pop(key, None)
            return None

    async def until(self, find: Callable[[], _T | None], seconds: float) -> _T | None:
        """Return what `find` finds as soon as it does, None if it does not in time."""
        with trio.move_on_after(max(seconds, 0.0)):
            while (found := find()) is None:
                await self.followed.changed()
            return found
        return find()


def _path(key: Key, part: str = "") -> str:
    return path_of(GROUP_VERSION, PLURAL, *key, part)
