"""Events on their way to containerd, in their order.

While containerd restarts, an event stays at the head of the queue until it was delivered, so none overtakes another.
The queue is bounded, so that a containerd that never returns costs no memory. An event that containerd refuses is
dropped, because all others wait behind it. Dropped events are logged.
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
"""Seconds between attempts; the last value repeats."""

AWAY = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED})
"""Errors of a containerd that is not running, or about to end. Any other error is its response, and would not
change."""

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
    """The queue, and the task that delivers it."""

    def __init__(self, namespace: str, address: str) -> None:
        self._namespace = namespace
        self._address = address
        self._queue: deque[forward_pb2.ForwardRequest] = deque()
        self._queued = trio.Event()
        self._delivered = trio.Event()

    def publish(self, event: Message) -> None:
        """Queue an event with the current time; never waits."""
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
        """Deliver events until cancelled."""
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
                log.warning("cannot deliver an event, retrying in %g s: %s", pause, error)
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
        """Wait until all events are delivered, for `seconds` at most."""
        if self._queue:
            with trio.move_on_after(seconds):
                await self._delivered.wait()
