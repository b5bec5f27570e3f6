"""How a container leaves: what asks it to, and what comes of that.

A stop signal of a container that may move asks the node's manager for a place elsewhere (`Move`). Hibernation leaves
an export on the node's disk for the container's successor there; until that takes it, the container sleeps as in COLD.
"""

import math
import time
from typing import TYPE_CHECKING

import trio

from zeropod import paths
from zeropod.concurrency import race
from zeropod.lifecycle.departure import Departure, Exported
from zeropod.lifecycle.machine import ASLEEP, State
from zeropod.lifecycle.reasons import Reason
from zeropod.rpc.client import Client, open_client
from zeropod.rpc.messages import node_pb2
from zeropod.rpc.status import Code, RpcError
from zeropod.runtime.exports.needs import of_this_node
from zeropod.shim import arrival
from zeropod.shim.moving import SERVICE, moving, needs_message

if TYPE_CHECKING:
    from zeropod.shim.container import Container

PASSES_ON_FOR = 30.0
"""Seconds for which connections to the old address are passed on at most: endpoints have changed everywhere by then."""

ON_THE_WAY = (State.CHECKPOINTING, State.RESTORING, State.DOZING)


async def hibernate(container: "Container") -> Exported:
    """Have a sleeping container on disk as a whole. Raises RpcError, and it is as before then."""
    life = container.life
    while life.state in ON_THE_WAY:
        await life.changed()
    if not container.settings.keep_on_restart:
        raise _refused(container, "nothing would come back from it: it has no annotation keep-on-restart")
    if container.controller is None or container.controller.strategy is None or container.settings.dry_run:
        raise _refused(container, str(life.explanation or Reason.NEVER.because()))
    if life.departure:
        if life.departure.is_kept and (exported := await life.departure.exported()):
            return exported
        raise _refused(container, "it is leaving already")
    if life.state not in (State.STANDBY, State.COLD):
        raise _refused(container, f"it is not asleep: {life.why or life.state.name.lower()}")
    departure = Departure(arrival.key_of(container), arrival.source_of(container), wakes=True)
    departure.is_kept = True
    life.leave(departure)
    if exported := await departure.exported():
        return exported
    raise _refused(container, str(departure.why))


def _refused(container: "Container", why: str) -> RpcError:
    return RpcError(Code.FAILED_PRECONDITION, f"cannot hibernate {container.id}: {why}")


class Move:
    """A container's stop, which is its leave for another node if the manager finds a place for it.

    Until the export was given the container can come back here, and does: then its stop signal is delivered after all.
    """

    def __init__(self, container: "Container", number: int, everyone: bool) -> None:
        """`number` is the signal by which it was to stop."""
        self._container = container
        self._number = number
        self._everyone = everyone
        self.is_over = False
        """Whether it has not left, and gets its signals as any other."""
        self._scope = trio.CancelScope()
        self._moving = moving(container)

    def cancel(self) -> None:
        """It is killed: whatever has been tried is over."""
        self._scope.cancel()

    async def run(self) -> None:
        """Have it leave, or have it get its signal. Never raises."""
        container = self._container
        with self._scope:
            why = "it was not tried"
            try:
                why = await race(self._leave, self._exited)
            except RpcError as error:
                why = f"the node's manager does not answer: {error.message}"
            except Exception as error:  # the bulkhead: whatever fails of it, the container ends as it would without
                why = f"{type(error).__name__}: {error}"
                container.log.exception("cannot leave")
            if await self._is_back():
                container.log.info("ends here: %s", why)
                self.is_over = True
                try:
                    await container.kill(self._number, self._everyone)
                except RpcError as error:
                    container.log.warning("its stop signal was not delivered: %s", error.message)

    async def _exited(self) -> str:
        await self._container.init.exited.wait()
        return "it has ended"

    async def _is_back(self) -> bool:
        """Return whether it is here to be stopped, once that is certain."""
        life = self._container.life
        if life.departure:
            life.departure.refuse(Reason.LEFT_TOO_LATE.because())
            life.departure.end(given=False)
        while life.departure and life.state is not State.STOPPED:
            await life.changed()
        return life.state is not State.STOPPED

    async def _leave(self) -> str:
        """Return why it has not left; wait for its end otherwise."""
        async with open_client(paths.NODE_SOCKET) as client:
            prepared = await self._prepare(client)
            if not prepared.go:
                return prepared.why
            left = prepared.deadline.ToNanoseconds() / 1e9 - time.time() if prepared.HasField("deadline") else math.inf
            with trio.move_on_after(max(0.0, left)) as patience:
                why = await self._export(client, prepared)
        if patience.cancelled_caught:
            return f"it was not decided within {left:.0f} s"
        return await self._exited() if why is None else why

    async def _prepare(self, client: Client, obstacle: str = "") -> node_pb2.PrepareEvacResponse:
        container = self._container
        settings, needs = container.settings, of_this_node()
        request = node_pb2.PrepareEvacRequest(
            container=self._moving,
            asleep=container.life.state in ASLEEP,
            offline=settings.migrate or container.asked_to_leave,
            live=settings.live_migrate or container.asked_to_leave,
            needs=needs_message(needs),
            obstacle=obstacle,
        )
        return await client.call(SERVICE, "PrepareEvac", request, node_pb2.PrepareEvacResponse)

    async def _export(self, client: Client, prepared: node_pb2.PrepareEvacResponse) -> str | None:
        """Return None when it has left, else why not."""
        container = self._container
        life, settings = container.life, container.settings
        departure = Departure(
            prepared.key, arrival.source_of(container), live=settings.live_migrate or container.asked_to_leave
        )
        departure.is_kept = prepared.park
        life.leave(departure)
        exported = await departure.exported()
        if exported is None:
            why = str(departure.why)
            await self._prepare(client, obstacle=why)  # which tells it
            return why
        answer = await client.call(SERVICE, "Evac", self._evac(exported), node_pb2.EvacResponse)
        if answer.outcome == node_pb2.WITHDRAW:
            departure.is_kept = False
            return answer.why
        departure.is_kept = answer.outcome == node_pb2.PARKED
        departure.address, departure.passes_on_for = answer.address, PASSES_ON_FOR
        departure.end(given=True)
        return None

    def _evac(self, exported: Exported) -> node_pb2.EvacRequest:
        files = exported.manifest.files
        stored = sum(exported.manifest.stored.values())
        request = node_pb2.EvacRequest(
            container=self._moving,
            key=exported.export.key,
            image_bytes=sum(files.values()) - stored,
            stored_bytes=stored,
        )
        strategy = self._container.controller.strategy if self._container.controller else None
        frozen = time.monotonic() - strategy.frozen_at if strategy else 0.0
        request.paused_at.FromNanoseconds(time.time_ns() - round(frozen * 1e9))
        return request
