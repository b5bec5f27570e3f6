"""Events over a real socket to a containerd that comes, goes and refuses; its pauses pass in virtual time."""

import itertools
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from trio.testing import MockClock, wait_all_tasks_blocked

from zeropod.rpc.messages import events_pb2, forward_pb2
from zeropod.rpc.server import serve, unary
from zeropod.rpc.status import Code, RpcError
from zeropod.shim import publisher as module
from zeropod.shim.publisher import ATTEMPT, PAUSES, SERVICE, TOPICS, Publisher


class Containerd:
    """Listens as long as `serving` runs; `refusals` are the answers to the next events."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.taken: list[forward_pb2.ForwardRequest] = []
        self.refusals: list[RpcError | None] = []
        self.offered = 0
        self.silent = False

    @property
    def ids(self) -> list[str]:
        return [event_of(request).id for request in self.taken]

    async def forward(self, request: forward_pb2.ForwardRequest) -> Message:
        self.offered += 1
        if self.silent:
            await trio.sleep_forever()
        if self.refusals and (refusal := self.refusals.pop(0)):
            raise refusal
        self.taken.append(request)
        return Empty()

    async def serve(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(self.path))
        sock.listen()
        listener = trio.SocketListener(sock)
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await serve([listener], {SERVICE: {"Forward": unary(forward_pb2.ForwardRequest, self.forward)}})


def event_of(request: forward_pb2.ForwardRequest) -> events_pb2.TaskExit:
    return events_pb2.TaskExit.FromString(request.envelope.event.value)


def numbered(numbers: Sequence[int]) -> list[events_pb2.TaskExit]:
    return [events_pb2.TaskExit(id=str(number)) for number in numbers]


@pytest.fixture
def containerd(tmp_path: Path) -> Containerd:
    return Containerd(tmp_path / "s")


@pytest.fixture
async def publisher(containerd: Containerd, nursery: trio.Nursery) -> Publisher:
    publisher = Publisher("k8s.io", str(containerd.path))
    nursery.start_soon(publisher.run)
    return publisher


async def delivered(containerd: Containerd, count: int) -> None:
    """Returns when containerd has so many; a test in which it never has them fails."""
    for _ in range(100):
        if len(containerd.taken) >= count:
            break
        await wait_all_tasks_blocked()
    assert len(containerd.taken) == count
    await wait_all_tasks_blocked()


def test_every_event_of_the_task_service_has_its_topic() -> None:
    names = {name for name in events_pb2.DESCRIPTOR.message_types_by_name if name != "TaskIO"}
    assert {message.DESCRIPTOR.name for message in TOPICS} == names
    assert all(topic.startswith("/tasks/") for topic in TOPICS.values())


async def test_an_event_arrives_in_containerds_envelope(
    containerd: Containerd, publisher: Publisher, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    await nursery.start(containerd.serve)
    publisher.publish(events_pb2.TaskOOM(container_id="web"))
    await delivered(containerd, 1)
    envelope = containerd.taken[0].envelope
    assert (envelope.namespace, envelope.topic) == ("k8s.io", "/tasks/oom")
    assert envelope.event.type_url == "containerd.events.TaskOOM"
    assert events_pb2.TaskOOM.FromString(envelope.event.value).container_id == "web"
    assert envelope.timestamp.seconds > 0


async def test_events_arrive_in_their_order_over_one_connection(
    containerd: Containerd, publisher: Publisher, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    await nursery.start(containerd.serve)
    for event in numbered(range(50)):
        publisher.publish(event)
    await delivered(containerd, 50)
    assert containerd.ids == [str(number) for number in range(50)]


async def test_nothing_is_lost_or_overtaken_while_containerd_restarts(
    containerd: Containerd, publisher: Publisher, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    first: trio.CancelScope = await nursery.start(containerd.serve)
    publisher.publish(numbered([0])[0])
    await delivered(containerd, 1)
    first.cancel()
    await wait_all_tasks_blocked()
    for event in numbered([1, 2]):
        publisher.publish(event)
    for pause in PAUSES:
        await wait_all_tasks_blocked()
        mock_clock.jump(pause)
    assert containerd.ids == ["0"]
    await nursery.start(containerd.serve)
    publisher.publish(numbered([3])[0])
    await wait_all_tasks_blocked()
    mock_clock.jump(PAUSES[-1])
    await delivered(containerd, 4)
    assert containerd.ids == ["0", "1", "2", "3"]


async def test_the_pauses_between_attempts_grow_and_begin_anew_after_a_success(
    containerd: Containerd, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    away = RpcError(Code.UNAVAILABLE, "shutting down")
    containerd.refusals = [*[away] * 6, None, away]
    publisher = Publisher("k8s.io", str(containerd.path))
    times: list[float] = []
    forward = containerd.forward

    async def timed(request: forward_pb2.ForwardRequest) -> Message:
        times.append(trio.current_time())
        return await forward(request)

    monkeypatch.setattr(containerd, "forward", timed)
    await nursery.start(containerd.serve)
    nursery.start_soon(publisher.run)
    for event in numbered([1, 2]):
        publisher.publish(event)
    await publisher.flush(60.0)
    pauses = [round(later - earlier, 6) for earlier, later in itertools.pairwise(times)]
    assert pauses == [*PAUSES, PAUSES[-1], PAUSES[-1], 0.0, PAUSES[0]]
    assert containerd.ids == ["1", "2"]


async def test_an_event_that_containerd_does_not_answer_is_offered_again(
    containerd: Containerd, publisher: Publisher, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await nursery.start(containerd.serve)
    containerd.silent = True
    publisher.publish(numbered([1])[0])
    await trio.sleep(ATTEMPT / 2)
    assert containerd.offered == 1
    containerd.silent = False
    await publisher.flush(60.0)
    assert containerd.ids == ["1"]


@pytest.mark.parametrize("code", [Code.INVALID_ARGUMENT, Code.UNKNOWN, Code.UNIMPLEMENTED, Code.INTERNAL])
async def test_an_event_that_containerd_refuses_does_not_hold_up_the_others(
    containerd: Containerd,
    publisher: Publisher,
    nursery: trio.Nursery,
    mock_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    code: Code,
) -> None:
    containerd.refusals = [None, RpcError(code, "no topic")]
    await nursery.start(containerd.serve)
    for event in numbered([1, 2, 3]):
        publisher.publish(event)
    await delivered(containerd, 2)
    assert containerd.ids == ["1", "3"]
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "/tasks/exit" in record.getMessage()
    assert "no topic" in record.getMessage()


@pytest.mark.parametrize("code", sorted(module.AWAY))
async def test_an_answer_of_a_containerd_that_is_about_to_go_is_no_refusal(
    containerd: Containerd, publisher: Publisher, nursery: trio.Nursery, autojump_clock: MockClock, code: Code
) -> None:
    containerd.refusals = [RpcError(code, "shutting down")]
    await nursery.start(containerd.serve)
    publisher.publish(numbered([1])[0])
    await publisher.flush(60.0)
    assert containerd.ids == ["1"]


async def test_the_oldest_event_gives_way_when_containerd_is_away_for_too_long(
    containerd: Containerd, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LIMIT", 3)
    publisher = Publisher("k8s.io", str(containerd.path))
    for event in numbered(range(5)):
        publisher.publish(event)
    assert [record.getMessage() for record in caplog.records] == [
        "containerd has been away for too long, an event is lost: /tasks/exit"
    ] * 2
    await nursery.start(containerd.serve)
    nursery.start_soon(publisher.run)
    await publisher.flush(10.0)
    assert containerd.ids == ["2", "3", "4"]


async def test_an_event_that_is_lost_while_it_is_offered_takes_no_other_with_it(
    containerd: Containerd, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    monkeypatch.setattr(module, "LIMIT", 2)
    publisher = Publisher("k8s.io", str(containerd.path))
    forward = containerd.forward

    async def crowded(request: forward_pb2.ForwardRequest) -> Message:
        if not containerd.taken:
            publisher.publish(numbered([3])[0])  # the queue is full: the first event is dropped from it
        return await forward(request)

    monkeypatch.setattr(containerd, "forward", crowded)
    await nursery.start(containerd.serve)
    for event in numbered([1, 2]):
        publisher.publish(event)
    nursery.start_soon(publisher.run)
    await publisher.flush(60.0)
    assert containerd.ids == ["1", "2", "3"]


async def test_flushing_waits_until_everything_is_delivered(
    containerd: Containerd, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    publisher = Publisher("k8s.io", str(containerd.path))
    await nursery.start(containerd.serve)
    nursery.start_soon(publisher.run)
    for event in numbered(range(20)):
        publisher.publish(event)
    await publisher.flush(5.0)
    assert len(containerd.taken) == 20


async def test_flushing_an_empty_queue_returns_at_once(publisher: Publisher, mock_clock: MockClock) -> None:
    await publisher.flush(5.0)


async def test_flushing_gives_up_when_containerd_stays_away(publisher: Publisher, autojump_clock: MockClock) -> None:
    publisher.publish(numbered([1])[0])
    began = trio.current_time()
    await publisher.flush(5.0)
    assert trio.current_time() - began == pytest.approx(5.0)
