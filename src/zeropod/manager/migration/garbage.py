"""Migrations that nothing needs any more. The API server removes those whose pods, or StatefulSet, are gone.

What is left is what has ended long ago while its pods live on, and what nothing will ever end: its node never came
back. Every manager may remove these, so that it does not matter which of them is gone, too; each waits for longer than
those that have more to do with it, and all of them with a different time, so that one removes and the others see it.
"""

import logging
import time
from collections.abc import Callable
from hashlib import sha256

import trio

from zeropod.manager.kube.client import Client, path_of
from zeropod.manager.kube.errors import ApiError
from zeropod.manager.migration.resource import Migration
from zeropod.manager.migration.store import Store

log = logging.getLogger(__name__)

KEPT = 3600.0
"""Seconds that a Migration stays for people to look at."""
TARGETS, OTHERS = 120.0, 240.0
"""Seconds that the target's manager, and any other one, waits for longer."""
SPREAD = 600
"""Seconds over which other nodes' managers are spread."""
LOOK = 30.0
"""Seconds between looks."""


def due(migration: Migration, node: str) -> float:
    """Return when this node's manager may remove a Migration, if it is still there."""
    at = migration.touched + KEPT
    if node == migration.source_node:
        return at
    if node == migration.target_node:
        return at + TARGETS
    digest = sha256(f"{node}/{migration.uid}".encode()).digest()
    return at + OTHERS + int.from_bytes(digest[:4]) % SPREAD


class Garbage:
    def __init__(self, client: Client, store: Store, node: str, now: Callable[[], float] = time.time) -> None:
        self._client, self._store, self._node, self._now = client, store, node, now

    async def run(self) -> None:
        """Remove what is due, until cancelled."""
        while True:
            await trio.sleep(LOOK)
            if not self._store.followed.ready:
                continue
            for each in self._store.all:
                if due(each, self._node) <= self._now():
                    await self._remove(each)

    async def _remove(self, migration: Migration) -> None:
        try:
            if migration.is_done or not await self._has_pods(migration):
                await self._store.delete(migration)
                log.info("removed the Migration %s/%s", *migration.key)
        except ApiError as error:
            log.warning("cannot remove the Migration %s/%s: %s", *migration.key, error)

    async def _has_pods(self, migration: Migration) -> bool:
        """Whether a pod that has a part in it is still there. Raises ApiError."""
        spec = migration.spec
        for name, uid in ((spec.get("sourcePod"), migration.source_uid), (spec.get("targetPod"), migration.target_uid)):
            if not name:
                continue
            try:
                pod = await self._client.get(path_of("v1", "pods", migration.namespace, str(name)))
            except ApiError as error:
                if error.status != 404:
                    raise
            else:
                if pod["metadata"].get("uid") == uid:
                    return True
        return False
