"""Events on their way to containerd, in the order in which they happened.

containerd may be restarting: an event stays at the head of the queue until it was taken, so none overtakes another.
The queue is bounded, since a containerd that never returns must not cost memory, and an event that containerd refuses
is not offered again, since all others wait behind it; what is dropped is logged.
"""

import logging
from collections import deque

import trio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from zeropod.rpc.client import Client, open_client
from zeropod.rpc.messages import events_pb2, forward_pb2
from zeropod.rpc.payload import pack
from zeropod.rpc.status import Code, RpcError

log = logging.getLogger(__name__)

SERVICE = "containerd.services.events.ttrpc.v1.Events"

LIMIT = 2048
"""Events kept while containerd is away."""

ATTEMPT = 5.0
"""Seconds for one attempt."""

PAUSES = (0.05, 0.2, 1.0, 5.0)
"""Seconds between attempts, the last one for all further ones."""

AWAY = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED})
"""The errors of a containerd that is not there, or about to go; any other is its answer and would be the same again."""

TOPICS: dict[type[Message], str] = {
    events_pb2.TaskCreate: "/tasks/create",
    events_pb2.TaskStart: "/tasks/start",
    events_pb2.TaskOOM: "/tasks/oom",
    events_pb2.TaskExit: "/tasks/exit",
    events_pb2.TaskDelete: "/tasks/delete",
    events_pb2.TaskExecAdded: "/tasks/exec-added",
    events_pb2.TaskExecStarted: "/tasks/exec-started",
    events_pb2.TaskPaused: "/tasks/paused",
    events_pb2.TaskResumed: "/tasks/resumed",
    events_pb2.TaskCheckpointed: "/tasks/checkpointed",
}


class Publisher:
    """The queue and the task that empties it."""

    def __init__(self, namespace: str, address: str) -> None:
        self._namespace = namespace
        self._address = address
        self._queue: deque[forward_pb2.ForwardRequest] = deque()
        self._queued = trio.Event()
        self._delivered = trio.Event()

    def publish(self, event: Message) -> None:
        """Queues an event with the present time; never waits."""
        if len(self._queue) == LIMIT:
            lost = self._queue.popleft()
            log.error("containerd has been away for too long, an event is lost: %s", lost.envelope.topic)
        request = forward_pb2.ForwardRequest()
        request.envelope.timestamp.GetCurrentTime()
        request.envelope.namespace = self._namespace
        request.envelope.topic = TOPICS[type(event)]
        request.envelope.event.CopyFrom(pack(event))
        self._queue.append(request)
        self._queued.set()

    async def run(self) -> None:
        """Delivers until it is cancelled."""
        failures = 0
        while True:
            await self._queued.wait()
            try:
                async with open_client(self._address) as client:
                    while True:
                        await self._queued.wait()
                        await self._deliver_first(client)
                        failures = 0
            except RpcError as error:
                pause = PAUSES[min(failures, len(PAUSES) - 1)]
                log.warning("an event is not delivered, again in %g s: %s", pause, error)
                failures += 1
                await trio.sleep(pause)

    async def _deliver_first(self, client: Client) -> None:
        request = self._queue[0]
        try:
            await client.call(SERVICE, "Forward", request, Empty, timeout=ATTEMPT)
        except RpcError as error:
            if error.code in AWAY:
                raise
            log.error("containerd refuses an event, it is dropped: %s: %s", request.envelope.topic, error)
        if self._queue[0] is request:  # it may have been dropped for the limit meanwhile
            self._queue.popleft()
        if not self._queue:
            self._queued = trio.Event()
            self._delivered.set()
            self._delivered = trio.Event()

    async def flush(self, seconds: float) -> None:
        """Waits until everything is delivered, for at most so long."""
        if self._queue:
            with trio.move_on_after(seconds):
                await self._delivered.wait()
