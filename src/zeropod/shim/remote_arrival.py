"""What a container comes back from that has left another node: asked of the node's manager, fetched through it.

Its image, its indexes and what it has written to its root file system are here before it is restored; the page store's
files are filled while it sleeps or runs. The source decides, once, whether it runs here (COMMIT).
"""

import math
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from zeropod import paths
from zeropod.lifecycle.arrival import AdoptionFailed
from zeropod.lifecycle.machine import State
from zeropod.lifecycle.reasons import Reason
from zeropod.rpc.client import Client, open_client
from zeropod.rpc.messages import node_pb2
from zeropod.rpc.status import Code, RpcError
from zeropod.runtime.exports import index_file
from zeropod.runtime.exports.decision import Decision
from zeropod.runtime.exports.errors import BadExport
from zeropod.runtime.exports.manifest import IMAGES, STORE, UPPER, Manifest
from zeropod.runtime.exports.needs import of_this_node
from zeropod.runtime.memory.userfault.extents import Index
from zeropod.runtime.pager.files import PagesFile
from zeropod.runtime.transfer import opening
from zeropod.runtime.transfer.errors import DecisionUnknown, SourceLost
from zeropod.runtime.transfer.fetch import Fetch
from zeropod.shim.moving import SERVICE, moving, needs_message

if TYPE_CHECKING:
    from zeropod.shim.container import Container

INCOMING = "incoming"
"""In the container's directory: what is fetched, until it is the container's."""

RESTORE = 110.0
"""Seconds for the manager to know what there is to come back from: it bounds that by 100, the kubelet by 120."""

TOLD_EVERY = 2.0
"""Seconds between two reports of what has come so far."""

TOLD_WITHIN = 10.0
"""Seconds for the manager to take a report."""

CERTAIN = 120.0
"""Seconds for a source that was asked to decide, and did not answer, to say what it has decided."""


class RemoteComing:
    """An export on another node; see `Coming`."""

    def __init__(self, fetch: Fetch, directory: Path, manifest: Manifest) -> None:
        """All of it but the store's files has been fetched into the directory. Blocks. Raises BadExport, OSError."""
        self._fetch = fetch
        self._directory = directory
        self.manifest = manifest
        self.images, self.store = directory / IMAGES, directory / STORE
        sizes = manifest.stored
        self.indexes: Mapping[int, Index] = {
            pid: index_file.read(directory / name, sizes) for pid, name in manifest.carried.items()
        }

    def open_files(self) -> dict[int, PagesFile]:
        return self._fetch.pages_files()

    async def commit(self) -> None:
        try:
            decided = await self._fetch.commit()
        except DecisionUnknown as unknown:
            # It may have been given: then the source never runs again, and this is the only one that can.
            with trio.move_on_after(CERTAIN):
                if await self._fetch.state() is Decision.GIVEN:
                    return
            raise AdoptionFailed(f"whether its source has given it away is not known: {unknown}") from unknown
        if decided is not Decision.GIVEN:
            raise AdoptionFailed("its source has taken it back")

    def settle(self, images: Path, store: Path) -> None:
        for before, after in ((self.images, images), (self.store, store)):
            if before.exists():
                shutil.rmtree(after, ignore_errors=True)
                before.rename(after)
        shutil.rmtree(self._directory, ignore_errors=True)


class RemoteArrival:
    """One container's way here, from the question whether there is one to its last page."""

    def __init__(self, container: "Container") -> None:
        self._container = container
        self._directory = container.store.directory / INCOMING
        self._moving = moving(container)
        self._scope = trio.CancelScope()
        self._fetch: Fetch | None = None
        self._migration = ""

    async def ask(self) -> tuple[bool, str]:
        """Return whether there is something to come back from; and why not, where there was to be something."""
        request = node_pb2.RestoreRequest(container=self._moving, has=needs_message(of_this_node()))
        try:
            async with open_client(paths.NODE_SOCKET) as client:
                answer = await client.call(SERVICE, "Restore", request, node_pb2.RestoreResponse, timeout=RESTORE)
        except RpcError as error:
            if error.code == Code.UNAVAILABLE:  # of a manager that is gone
                self._container.log.info("the node's manager does not answer: %s", error.message)
                return False, ""
            return False, f"the node's manager says: {error.message}"
        self._migration = answer.migration
        return answer.found, answer.why

    async def fetched(self) -> RemoteComing:
        """Fetch all that a restore needs. Raises BadExport, SourceLost, OSError."""
        shutil.rmtree(self._directory, ignore_errors=True)
        paths.make_private(self._directory)
        fetch = self._fetch = Fetch(self._connect, self._directory)
        self._container.pod.nursery.start_soon(self._run, fetch)
        manifest = await fetch.manifest()
        if against := manifest.needs.against(of_this_node()):
            raise BadExport(against)
        await fetch.small_files()
        return await trio.to_thread.run_sync(RemoteComing, fetch, self._directory, manifest)

    @property
    def upper(self) -> Path:
        """The archive of what it has written to its root file system."""
        return self._directory / UPPER

    async def _connect(self) -> trio.abc.Stream:
        stream = await trio.open_unix_socket(paths.TRANSFER_SOCKET)
        try:
            await opening.ask(stream, {"migration": self._migration, "container": self._container.name})
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def _run(self, fetch: Fetch) -> None:
        with self._scope:
            await fetch.run()

    async def fail(self, why: str) -> None:
        """Nothing has come of it: say so to the source and to the manager, and take away what is here."""
        if self._fetch:
            await self._fetch.failed(why)
        self._scope.cancel()
        await trio.to_thread.run_sync(shutil.rmtree, self._directory, True)
        await self._tell(phase="Failed", why=why, is_final=True)

    def goes_on(self) -> None:
        """It runs, or sleeps, here: see to the rest, and tell how far it is."""
        self._container.pod.nursery.start_soon(self._until_complete)

    async def _until_complete(self) -> None:
        fetch, container = self._fetch, self._container
        assert fetch
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_at_its_end, nursery.cancel_scope)
            await container.has_started.wait()
            restored = time.time_ns()
            nursery.start_soon(self._report, fetch, restored)
            nursery.start_soon(self._hold_awake, fetch)
            try:
                await fetch.complete()
                await fetch.done()
                container.log.info("all of it is here, %d MiB were sent", fetch.bytes_received >> 20)
                await self._tell("Completed", restored_at=restored, is_final=True)
            except SourceLost as lost:  # its memory is lost, too, which what watches that reports
                await self._tell("Failed", why=str(lost), restored_at=restored, is_final=True)
            nursery.cancel_scope.cancel()
        self._scope.cancel()

    async def _cancel_at_its_end(self, scope: trio.CancelScope) -> None:
        await self._container.init.exited.wait()
        if self._fetch:
            await self._fetch.failed("the container has ended")
        scope.cancel()

    async def _hold_awake(self, fetch: Fetch) -> None:
        """Once it is awake, it does not sleep before all of it is here: waiting for pages it would look idle."""
        life = self._container.life
        while life.state is not State.RUNNING:
            await life.changed()
        with life.inhibit(Reason.PAGES_TO_COME.because()), suppress(SourceLost):
            await fetch.complete()

    async def _report(self, fetch: Fetch, restored: int) -> None:
        while True:
            await self._tell("Completed", restored_at=restored)
            await trio.sleep(TOLD_EVERY)
            if not fetch.pieces_to_come:
                await trio.sleep_forever()

    async def _tell(self, phase: str, *, why: str = "", restored_at: int = 0, is_final: bool = False) -> None:
        fetch = self._fetch
        request = node_pb2.FinishRestoreRequest(
            container=self._moving, migration=self._migration, phase=phase, why=why, is_final=is_final
        )
        if fetch:
            request.bytes_received = fetch.bytes_received
            request.pages_to_come = math.ceil(fetch.bytes_to_come / 4096)
        if restored_at:
            request.restored_at.FromNanoseconds(restored_at)
        try:
            async with open_client(paths.NODE_SOCKET) as client:
                await self._told(client, request)
        except RpcError as error:
            self._container.log.warning("the node's manager was not told how its restore went: %s", error.message)

    async def _told(self, client: Client, request: node_pb2.FinishRestoreRequest) -> None:
        await client.call(SERVICE, "FinishRestore", request, node_pb2.FinishRestoreResponse, timeout=TOLD_WITHIN)
