"""What a container comes back from at its creation: an export that was left for it on this node.

Only for containers that ask for it by annotation; for all others nothing of this is imported. Whatever is wrong with
an export, the container is created as any other, and says so.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from zeropod import paths
from zeropod.lifecycle.arrival import AdoptionFailed, Coming
from zeropod.runtime.exports import export as exports
from zeropod.runtime.exports import layer
from zeropod.runtime.exports.decision import Decision
from zeropod.runtime.exports.errors import BadExport
from zeropod.runtime.exports.export import Export
from zeropod.runtime.exports.manifest import PAGES, Manifest, Source
from zeropod.runtime.exports.needs import of_this_node
from zeropod.runtime.memory.userfault.extents import Index
from zeropod.runtime.pager.files import PagesFile
from zeropod.runtime.spec import SANDBOX_NAME, SANDBOX_NAMESPACE, SANDBOX_UID
from zeropod.runtime.transfer.errors import SourceLost
from zeropod.shim import adoption
from zeropod.shim.remote_arrival import RemoteArrival

if TYPE_CHECKING:
    from zeropod.shim.container import Container

log = logging.getLogger(__name__)


def key_of(container: "Container") -> str:
    """Return the key under which this container leaves, and its successor in the same pod comes back."""
    uid = container.spec.annotations.get(SANDBOX_UID, "")
    if uid and container.name:
        return exports.key_of(uid, container.name)
    return exports.key_without_pod(container.runc.namespace, container.id)


def source_of(container: "Container", node: str = "") -> Source:
    """Return what a manifest says of this container."""
    annotations = container.spec.annotations
    return Source(
        node=node,
        pod_namespace=annotations.get(SANDBOX_NAMESPACE, ""),
        pod=annotations.get(SANDBOX_NAME, ""),
        pod_uid=annotations.get(SANDBOX_UID, ""),
        container=container.name,
        namespace=container.runc.namespace,
        id=container.id,
    )


class LocalComing:
    """An export on this node's disk; see `Coming`."""

    def __init__(self, export: Export) -> None:
        """Blocks. Raises BadExport, OSError."""
        self._export = export
        self.manifest: Manifest = export.read()
        if against := self.manifest.needs.against(of_this_node()):
            raise BadExport(against)
        self.images, self.store = export.images, export.store
        self.indexes: Mapping[int, Index] = export.indexes(self.manifest)

    def open_files(self) -> dict[int, PagesFile]:
        files: dict[int, PagesFile] = {}
        for number in self.manifest.stored:
            files[number] = PagesFile.open(self.store / f"{PAGES}{number}")
        return files

    async def commit(self) -> None:
        if await trio.to_thread.run_sync(self._export.decide, Decision.GIVEN) is not Decision.GIVEN:
            raise AdoptionFailed("the container that it is of has taken it back")

    def settle(self, images: Path, store: Path) -> None:
        exports.take(self._export, images, store)


async def come_back(container: "Container", renew_root: Callable[[], None]) -> str:
    """Have the container come back from what was left for it, here or on another node.

    Returns why it did not, although there was something; nothing is left of that then, and `renew_root` has made the
    root file system what it was. `container.has_come_back` says whether it did.
    """
    if container.name and paths.has_manager():
        remote = RemoteArrival(container)
        found, why = await remote.ask()
        if found:
            why = await _come(container, remote.fetched, lambda: remote.upper, renew_root)
            if why:
                await remote.fail(why)
            else:
                remote.goes_on()
        if found or why:
            return why
    return await _come_back_here(container, renew_root) if container.settings.keep_on_restart else ""


async def _come_back_here(container: "Container", renew_root: Callable[[], None]) -> str:
    export = Export.of(key_of(container))
    went_down = _mark(export)
    if not export.exists:
        return went_down
    try:
        if (decided := export.decided) is not None:
            export.remove()
            return f"what was left for it is {decided} already"
    except (BadExport, OSError) as error:
        export.remove()
        return str(error)

    async def read() -> LocalComing:
        return await trio.to_thread.run_sync(LocalComing, export)

    why = await _come(container, read, lambda: export.upper, renew_root)
    if why:
        _give_up(export)
    return why


async def _come(
    container: "Container",
    coming_of: Callable[[], Awaitable[Coming]],
    upper: Callable[[], Path],
    renew_root: Callable[[], None],
) -> str:
    """Return why it has not come back; empty if it has."""
    try:
        if container.init.stdio.terminal:
            raise BadExport("it has a terminal, which cannot come back")
        coming = await coming_of()
        if coming.manifest.data:
            await trio.to_thread.run_sync(layer.apply, upper(), container.runc.bundle / "rootfs")
        await adoption.adopt(container, coming)
    except (AdoptionFailed, BadExport, SourceLost, layer.HalfApplied, OSError, ValueError) as error:
        await trio.to_thread.run_sync(renew_root)
        return str(error)
    container.log.info("has come back, %s", "asleep" if coming.manifest.asleep else "awake")
    return ""


def _mark(export: Export) -> str:
    """Note that a container with this key is there; return that the node went down without its having hibernated."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    mark = _mark_of(export)
    try:
        before = mark.read_text()
    except FileNotFoundError:
        before = boot
    paths.make_private(mark.parent)
    mark.write_text(boot)
    return "" if before == boot else "the node went down, and it was not hibernated before"


def _mark_of(export: Export) -> Path:
    return paths.MARKS / export.key


def ends(container: "Container") -> None:
    """It is deleted: nothing of it is expected to come back, unless it has left for that."""
    _mark_of(Export.of(key_of(container))).unlink(missing_ok=True)


def _give_up(export: Export) -> None:
    """It would fail the next time, too."""
    try:
        if export.decide(Decision.WITHDRAWN) is Decision.WITHDRAWN:
            export.remove()
    except (BadExport, OSError) as error:
        log.warning("%s is left: %s", export.directory, error)
        export.remove()
