"""Shims that do what a test wants, behind real sockets."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
from google.protobuf.message import Message

from zeropod import shims
from zeropod.rpc.messages import status_pb2
from zeropod.rpc.messages.status_pb2 import ContainerStatus, Update
from zeropod.rpc.server import Services, serve, streaming, unary

Send = Callable[[Message], Awaitable[None]]


class FakeShim:
    """Tells what it is given; each who watches gets a snapshot first."""

    def __init__(self, *containers: ContainerStatus) -> None:
        self.containers = {status.id: status for status in containers}
        self.sequence = 0
        self.watchers = 0
        """How often it was watched so far."""
        self.requests: list[Message] = []
        self._said = trio.Event()
        self._next = Update()

    def change(self, status: ContainerStatus) -> None:
        self.containers[status.id] = status
        self.say(Update(sequence=self.sequence + 1, after=self.sequence, containers=[status]))

    def remove(self, name: str) -> None:
        del self.containers[name]
        self.say(Update(sequence=self.sequence + 1, after=self.sequence, removed=[name]))

    def say(self, update: Update) -> None:
        self.sequence = update.sequence
        self._next = update
        self._said.set()
        self._said = trio.Event()

    async def watch(self, request: status_pb2.WatchRequest, send: Send) -> None:
        self.watchers += 1
        await send(Update(sequence=self.sequence, snapshot=True, containers=self.containers.values()))
        while True:
            await self._said.wait()
            await send(self._next)

    async def list(self, request: status_pb2.ListRequest) -> Message:
        return status_pb2.ListResponse(containers=self.containers.values())

    def _answer(self, answer: Message) -> Callable[[Message], Awaitable[Message]]:
        async def run(request: Message) -> Message:
            self.requests.append(request)
            return answer

        return run

    def services(self) -> Services:
        status = next(iter(self.containers.values()), ContainerStatus())
        why = status_pb2.WhyResponse(
            status=status,
            reasons=[status_pb2.Reason(kind="exec", text="Exec 7 is running.", remedy="End it.")],
        )
        return {
            shims.SERVICE: {
                "List": unary(status_pb2.ListRequest, self.list),
                "Watch": streaming(status_pb2.WatchRequest, self.watch),
                "Why": unary(status_pb2.WhyRequest, self._answer(why)),
                "Sleep": unary(status_pb2.SleepRequest, self._answer(status)),
                "Wake": unary(status_pb2.WakeRequest, self._answer(status)),
            }
        }


async def listen(path: Path, nursery: trio.Nursery, services: Services) -> trio.CancelScope:
    """Serves at this path, which appears when it listens; cancel the scope and the shim is dead."""
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    nameless = path.with_suffix(".new")
    await sock.bind(str(nameless))
    sock.listen()
    scope = trio.CancelScope()

    async def run() -> None:
        with scope, sock:
            await serve([trio.SocketListener(sock)], services)

    nursery.start_soon(run)
    nameless.rename(path)
    return scope
