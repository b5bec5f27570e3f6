"""What a signal does to a container: it is delivered by runc, ends it, or has it leave for another node."""

import time
from typing import TYPE_CHECKING

import trio

from zeropod.kernel.pidfd import ExitStatus
from zeropod.lifecycle.machine import Answer, Request
from zeropod.lifecycle.reasons import Reason
from zeropod.runtime.errors import RuncError
from zeropod.shim import signals
from zeropod.shim.errors import kill_error

if TYPE_CHECKING:
    from zeropod.shim.container import Container
    from zeropod.shim.departure import Move

STOPS = (Request.STOP, Request.STOP_IN_ORDER)


class Stop:
    """The signals of one container."""

    def __init__(self, container: "Container") -> None:
        self._container = container
        self._move: Move | None = None
        """How it leaves, since its stop signal."""
        self._delivering = trio.Lock()
        """Held while runc delivers a signal: once it hears of the exit, containerd does not wait for that any more."""

    async def kill(self, number: int, everyone: bool) -> None:
        """Do what the signal asks. Raises RpcError."""
        container, request = self._container, self._request(number)
        if request in STOPS:
            if self._move and not self._move.is_over:
                return  # it is delivered if it does not leave
            if self._move is None and container.controller and self._may_leave:
                from zeropod.shim import departure  # only what may move ever needs it

                self._move = departure.Move(container, number, everyone)
                container.pod.nursery.start_soon(self._move.run)
                return
        if request is Request.KILL and self._move:
            self._move.cancel()
        await self.deliver(number, everyone)

    def _request(self, number: int) -> Request:
        container = self._container
        request = signals.request_of(number, container.settings, in_pod=bool(container.name))
        if request is Request.STOP_IN_ORDER and signals.hibernates(container.life):
            return Request.STOP
        return request

    @property
    def _may_leave(self) -> bool:
        return signals.may_leave(self._container.settings, asked=self._container.asked_to_leave)

    async def deliver(self, number: int, everyone: bool) -> None:
        """Deliver a signal, as the container's state allows it. Raises RpcError."""
        container, request = self._container, self._request(number)
        if request in STOPS:
            # Whatever its shutdown takes: from now on it stays awake.
            container.life.inhibit_for_good(Reason.STOPPING.because())
        async with container.allowed(request) as answer:
            if answer is Answer.END:
                await container.finish(ExitStatus(container.init.pid, 128 + number, time.time_ns()))
                return
            async with self._delivering:
                try:
                    await container.runc.kill(container.id, number, everyone)
                except RuncError as error:
                    raise kill_error(error) from error

    async def delivered(self) -> None:
        """Return when runc delivers nothing any more."""
        async with self._delivering:
            pass
