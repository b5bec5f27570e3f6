"""The node's containers as the Kubernetes side of the manager asks about them, and has them sleep and wake."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from zeropod.manager.commands import DEADLINE
from zeropod.manager.node import Node
from zeropod.manager.shims import PATIENCE, call
from zeropod.rpc.messages.status_pb2 import ContainerStatus, SleepRequest, WakeRequest, WhyRequest, WhyResponse
from zeropod.rpc.status import Code, RpcError

_Answer = TypeVar("_Answer", bound=Message)


class Shims:
    def __init__(self, node: Node) -> None:
        self._node = node

    def by_pod(self) -> Mapping[str, Sequence[ContainerStatus]]:
        """Return all containers by the uids of their pods."""
        return self._node.by_pod()

    @property
    def ready(self) -> bool:
        """Whether all shims have been heard of."""
        return self._node.ready

    async def changed(self) -> None:
        """Return at the next change."""
        await self._node.changed()

    async def why(self, id: str) -> list[tuple[str, str, str]]:
        """Return kind, text and remedy of each reason for what a container does. Raises RpcError."""
        answer = await self._call(id, "Why", WhyRequest(id=id), WhyResponse, PATIENCE)
        return [(reason.kind, reason.text, reason.remedy) for reason in answer.reasons]

    async def sleep(self, id: str) -> None:
        """Put a container to sleep. Raises RpcError where it may not."""
        await self._call(id, "Sleep", SleepRequest(id=id), ContainerStatus, DEADLINE)

    async def wake(self, id: str) -> None:
        """Wake a container. Raises RpcError."""
        await self._call(id, "Wake", WakeRequest(id=id), ContainerStatus, DEADLINE)

    async def _call(self, id: str, method: str, request: Message, answer: type[_Answer], timeout: float) -> _Answer:
        path = next((each.path for each in self._node.found if each.status.id == id), None)
        if path is None:
            raise RpcError(Code.NOT_FOUND, f"there is no container {id} here")
        return await call(path, method, request, answer, timeout)
