"""A manager that says what a test wants: it answers shims at the node's socket as one with --migration would.

It stands in for the real one because what is tested is the shim: each answer of a manager, at each moment, has to be
met, and a cluster gives none of them on demand. The containers, containerd, runc and CRIU are real.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import trio

from zeropod import paths
from zeropod.rpc.messages import node_pb2
from zeropod.rpc.server import serve, unary
from zeropod.runtime.exports.export import Export
from zeropod.runtime.transfer import opening
from zeropod.runtime.transfer import serve as transfer
from zeropod.runtime.transfer.errors import ProtocolError


@dataclass(slots=True)
class Manager:
    """What it is asked, and what it answers."""

    prepared: list[node_pb2.PrepareEvacRequest] = field(default_factory=list)
    evacuated: list[node_pb2.EvacRequest] = field(default_factory=list)
    prepares: node_pb2.PrepareEvacResponse = field(default_factory=node_pb2.PrepareEvacResponse)
    evacuates: node_pb2.EvacResponse = field(default_factory=node_pb2.EvacResponse)
    restores: dict[str, node_pb2.RestoreResponse] = field(default_factory=dict)
    """By the uid of the pod that asks."""
    finished: list[node_pb2.FinishRestoreRequest] = field(default_factory=list)
    decided: threading.Event = field(default_factory=threading.Event)
    """Set when Evac may answer."""

    async def prepare(self, request: node_pb2.PrepareEvacRequest) -> node_pb2.PrepareEvacResponse:
        await trio.lowlevel.checkpoint()
        self.prepared.append(request)
        return self.prepares

    async def evacuate(self, request: node_pb2.EvacRequest) -> node_pb2.EvacResponse:
        self.evacuated.append(request)
        while not self.decided.is_set():  # noqa: ASYNC110 - set by the test's thread
            await trio.sleep(0.005)
        return self.evacuates

    async def restore(self, request: node_pb2.RestoreRequest) -> node_pb2.RestoreResponse:
        """What there is for the pods that are named: as if it were on another node."""
        await trio.lowlevel.checkpoint()
        return self.restores.get(request.container.pod_uid, node_pb2.RestoreResponse())

    async def finish(self, request: node_pb2.FinishRestoreRequest) -> node_pb2.FinishRestoreResponse:
        await trio.lowlevel.checkpoint()
        self.finished.append(request)
        return node_pb2.FinishRestoreResponse()

    async def transfer(self, stream: trio.SocketStream) -> None:
        """A tunnel to the exporter: the whole protocol, without a network in between."""
        async with stream:
            line = await opening.receive_line(stream)
            await opening.accept(stream)
            key = line["migration"].partition("/")[2]
            with suppress(trio.BrokenResourceError, ProtocolError):
                await transfer.serve(stream, Export.of(key))


@contextmanager
def running(manager: Manager) -> Iterator[Manager]:
    """Inside, it answers the node's shims."""
    started, ended = threading.Event(), threading.Event()

    async def run() -> None:
        os.makedirs(paths.MANAGER_SOCKETS, exist_ok=True)
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(paths.NODE_SOCKET)
        listener.listen(8)
        services = {
            "zeropod.node.v1.Node": {
                "PrepareEvac": unary(node_pb2.PrepareEvacRequest, manager.prepare),
                "Evac": unary(node_pb2.EvacRequest, manager.evacuate),
                "Restore": unary(node_pb2.RestoreRequest, manager.restore),
                "FinishRestore": unary(node_pb2.FinishRestoreRequest, manager.finish),
            }
        }
        tunnel = trio.socket.socket(trio.socket.AF_UNIX)
        await tunnel.bind(paths.TRANSFER_SOCKET)
        tunnel.listen(8)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, manager.transfer, [trio.SocketListener(tunnel)])
            nursery.start_soon(serve, [trio.SocketListener(listener)], services)
            started.set()
            while not ended.is_set():  # noqa: ASYNC110 - set by the test's thread
                await trio.sleep(0.02)
            nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    try:
        assert started.wait(10)
        yield manager
    finally:
        ended.set()
        manager.decided.set()
        thread.join()
        os.unlink(paths.NODE_SOCKET)
        os.unlink(paths.TRANSFER_SOCKET)
