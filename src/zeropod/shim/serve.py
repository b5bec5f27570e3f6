"""`serve`: the shim itself, one process for a pod, from its first container to its last.

All tasks belong to the one nursery here. When containerd requests the shutdown and no container is left, the last
events are delivered and the nursery is cancelled, which ends the process.
"""

import logging
import os
import signal
import socket
from contextlib import suppress

import trio

from zeropod.kernel import pidfd
from zeropod.launch import logfile
from zeropod.launch.flags import Flags
from zeropod.launch.start import SOCKET_FD
from zeropod.rpc.server import serve
from zeropod.runtime import command
from zeropod.shim.pod import Pod
from zeropod.shim.publisher import Publisher
from zeropod.shim.service import TaskService
from zeropod.shim.status import StatusService, status_listener

log = logging.getLogger(__name__)

LAST_EVENTS = 5.0
"""Seconds that an ending shim waits until containerd has received its last events."""

LAST_CALLS = 10.0
"""Seconds that an ending shim waits for the responses of calls in progress."""

ORPHANS = 2.0
"""Seconds between a child's death and the first look at children that no task waits for."""


def main(flags: Flags) -> int:
    """Run a shim that was started as a program, because no zygote could fork it."""
    return shim(flags, socket.socket(fileno=SOCKET_FD))


def shim(flags: Flags, listener: socket.socket) -> int:
    """Serve at `listener` until the last container is gone, then remove its socket. Runs in the bundle's directory."""
    logfile.configure("log", debug=flags.debug)
    pidfd.set_subreaper()
    pidfd.set_name("zeropod-shim")
    address = listener.getsockname()
    try:
        trio.run(run, flags, listener)
    except BaseException:
        log.exception("the shim of %s ends with an error; containerd reports its containers as ended", flags.id)
        raise
    finally:
        with suppress(FileNotFoundError):
            os.unlink(address)
    return 0


async def run(flags: Flags, listener: socket.socket) -> None:
    async with trio.open_nursery() as nursery:
        address = os.environ.get("TTRPC_ADDRESS") or f"{flags.address}.ttrpc"
        publisher = Publisher(flags.namespace, address)
        pod = Pod(flags.namespace, nursery, publisher)
        service = TaskService(pod)
        nursery.start_soon(publisher.run)
        nursery.start_soon(reap)
        nursery.start_soon(until_signal, nursery.cancel_scope)
        nursery.start_soon(serve, [_listener(listener)], service.services())
        with status_listener(flags) as status:
            nursery.start_soon(serve, [_listener(status)], StatusService(pod).services())
            log.info("serves the shim of %s, pid %d", flags.id, os.getpid())
            await service.shutdown_requested.wait()
            await publisher.flush(LAST_EVENTS)
            with trio.move_on_after(LAST_CALLS):
                await service.answered()
            nursery.cancel_scope.cancel()


def _listener(listener: socket.socket) -> trio.SocketListener:
    return trio.SocketListener(trio.socket.from_stdlib_socket(listener))


async def reap() -> None:
    """Reap orphans that the shim got as subreaper; wakes up only when a child has died."""
    with trio.open_signal_receiver(signal.SIGCHLD) as deaths:
        async for _ in deaths:
            # Twice: only children that were dead at the first look are reaped at the second.
            for _look in range(2):
                await trio.sleep(ORPHANS)
                pidfd.reap_orphans(command.RUNNING)


async def until_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.warning("ends on signal %d", number)
            scope.cancel()
