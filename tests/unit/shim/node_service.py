"""A Node service that answers as a test says, at the socket where a shim looks for its node's manager.

It is a fake: a manager needs an API server and another node, and gives none of its rarer answers on demand. What is
under test is what the shim does with each of them.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
from google.protobuf.message import Message

from zeropod.rpc.messages import node_pb2
from zeropod.rpc.server import serve, unary


@dataclass
class NodeService:
    """The requests that came, and the answers that are given; an answer waits for its event, if it has one."""

    asked: list[Message] = field(default_factory=list)
    prepares: node_pb2.PrepareEvacResponse = field(default_factory=node_pb2.PrepareEvacResponse)
    evacuates: node_pb2.EvacResponse = field(default_factory=node_pb2.EvacResponse)
    restores: node_pb2.RestoreResponse = field(default_factory=node_pb2.RestoreResponse)
    waits: dict[str, trio.Event] = field(default_factory=dict)

    def of(self, kind: type[Message]) -> list[Message]:
        return [each for each in self.asked if isinstance(each, kind)]

    def _answer(self, name: str, answer: Callable[[], Message]) -> Callable[[Message], Awaitable[Message]]:
        async def run(request: Message) -> Message:
            await trio.lowlevel.checkpoint()
            self.asked.append(request)
            if (event := self.waits.get(name)) is not None:
                await event.wait()
            return answer()

        return run

    @asynccontextmanager
    async def at(self, path: Path) -> AsyncIterator["NodeService"]:
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(str(path))
        listener.listen(4)
        methods = {
            "PrepareEvac": unary(node_pb2.PrepareEvacRequest, self._answer("PrepareEvac", lambda: self.prepares)),
            "Evac": unary(node_pb2.EvacRequest, self._answer("Evac", lambda: self.evacuates)),
            "Restore": unary(node_pb2.RestoreRequest, self._answer("Restore", lambda: self.restores)),
            "FinishRestore": unary(
                node_pb2.FinishRestoreRequest, self._answer("FinishRestore", node_pb2.FinishRestoreResponse)
            ),
        }
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, [trio.SocketListener(listener)], {"zeropod.node.v1.Node": methods})
            yield self
            nursery.cancel_scope.cancel()
