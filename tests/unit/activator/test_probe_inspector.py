"""What becomes of a connection that may be a prober's, over real sockets on loopback."""

import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
from tests.unit.activator.first_bytes import grpc
from trio.testing import MockClock

from zeropod.activator import probe_inspector
from zeropod.activator.classify import ACKNOWLEDGED, PREFACE, SETTINGS, ProbeKind
from zeropod.activator.connect import OurConnections
from zeropod.activator.probe_inspector import Disposition, Inspection, Peeker, ProbeInspector
from zeropod.activator.probe_results import ProbeCheck, ProbeResult
from zeropod.kernel.lookup import Flow, FlowOrigin

HTTP_PROBE = b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: kube-probe/1.34\r\n\r\n"
LIMIT = 1024


@dataclass
class FakeLookup:
    """Everybody may be a prober who was not forgotten."""

    hinted: bool = True
    forgotten: list[Flow] = field(default_factory=list)
    said: list[tuple[Flow, FlowOrigin]] = field(default_factory=list)

    def flow(self, flow: Flow) -> int | None:
        return 12345 if self.hinted else None

    def untag_flow(self, flow: Flow) -> None:
        self.forgotten.append(flow)

    def tag_flow(self, flow: Flow, said: FlowOrigin) -> None:
        self.said.append((flow, said))


class FakeExaminer:
    """Knows what the application has said, or would say."""

    def __init__(self) -> None:
        self.known: ProbeResult | None = ProbeResult(True, 200)
        self.would_say: ProbeResult | None = None
        self.asked: list[ProbeCheck] = []

    def result(self, check: ProbeCheck) -> ProbeResult | None:
        return self.known

    async def ask(self, check: ProbeCheck) -> ProbeResult | None:
        self.asked.append(check)
        return self.would_say


@dataclass
class FakePeers:
    """Who is at the other end."""

    probers: bool = False
    closed: bool = False
    asked: Callable[[], None] = lambda: None
    """Called as the first is looked for."""

    def is_probe_source(self, own: tuple[str, int], other: tuple[str, int], /) -> bool:
        self.asked()
        return self.probers

    def has_closed(self, own: tuple[str, int], other: tuple[str, int], /) -> bool:
        return self.closed


def inspector_with(lookup: Any, peers: Any, results: Any) -> ProbeInspector:
    return ProbeInspector(lookup, LIMIT, peers, results, OurConnections(lookup))


class Meeting:
    """An inspector, and the two ends of a connection that it is to look at."""

    def __init__(self, client: trio.SocketStream, accepted: trio.SocketStream) -> None:
        self.client, self.accepted = client, accepted
        self.lookup = FakeLookup()
        self.peers = FakePeers()
        self.results = FakeExaminer()
        self.inspector = inspector_with(self.lookup, self.peers, self.results)

    async def inspect(self) -> Inspection:
        with trio.fail_after(10):
            return await self.inspector.inspect(self.accepted)

    async def rest(self) -> bytes:
        """What the application would read."""
        await self.client.send_eof()
        return b"".join([data async for data in self.accepted])


@pytest.fixture
async def meeting() -> AsyncIterator[Meeting]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    client = await trio.open_tcp_stream(*listener.socket.getsockname())
    async with listener, client, await listener.accept() as accepted:
        yield Meeting(client, accepted)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_inspector, "CLIENTS_PATIENCE", 0.05)


async def test_a_probe_that_comes_byte_by_byte_is_answered(meeting: Meeting) -> None:
    meeting.peers.probers = True
    async with trio.open_nursery() as nursery:
        findings: list[Inspection] = []

        async def inspect() -> None:
            findings.append(await meeting.inspect())

        nursery.start_soon(inspect)
        for position in range(len(HTTP_PROBE)):
            await meeting.client.send_all(HTTP_PROBE[position : position + 1])
            await trio.lowlevel.checkpoint()
        assert (await meeting.client.receive_some()).startswith(b"HTTP/1.1 200 OK\r\n")
        await meeting.client.aclose()
    assert findings == [Inspection(Disposition.ANSWERED)]
    assert meeting.inspector.answered == 1


async def test_a_probe_is_told_what_the_application_said_last(meeting: Meeting) -> None:
    meeting.peers.probers, meeting.results.known = True, ProbeResult(False, 503)
    await meeting.client.send_all(HTTP_PROBE)
    await meeting.client.send_eof()
    assert await meeting.inspect() == Inspection(Disposition.ANSWERED)
    assert (await meeting.client.receive_some()).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("said", [ProbeResult(True, 200), ProbeResult(False, 503), None])
async def test_what_was_not_asked_before_is_asked_of_the_application(
    meeting: Meeting, said: ProbeResult | None
) -> None:
    meeting.peers.probers, meeting.results.known, meeting.results.would_say = True, None, said
    address = meeting.client.socket.getpeername()
    await meeting.client.send_all(HTTP_PROBE)
    await meeting.client.send_eof()
    inspection = await meeting.inspect()
    assert inspection.disposition is Disposition.NEEDS_APPLICATION
    assert inspection.pending is not None
    assert meeting.results.asked == []
    assert await meeting.inspector.ask(meeting.accepted, inspection.pending) is bool(said and said.well)
    (check,) = meeting.results.asked
    assert check.target == address
    assert (check.request.kind, meeting.inspector.answered) == (ProbeKind.HTTP, 0)
    answered = await meeting.client.receive_some()
    assert answered[:13] == (f"HTTP/1.1 {said.status} ".encode() if said else b"")


async def test_who_says_to_be_a_prober_and_is_none_gets_the_application(meeting: Meeting) -> None:
    await meeting.client.send_all(HTTP_PROBE)
    assert await meeting.inspect() == Inspection(Disposition.PASS_ON)
    assert meeting.lookup.forgotten
    assert await meeting.rest() == HTTP_PROBE


async def test_closing_without_a_word_is_a_probe(meeting: Meeting) -> None:
    await meeting.client.aclose()
    assert (await meeting.inspect()).disposition is Disposition.ANSWERED
    assert meeting.inspector.answered == 1


async def test_a_reset_wants_nothing(meeting: Meeting) -> None:
    meeting.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes.fromhex("0100000000000000"))
    await meeting.client.aclose()
    assert (await meeting.inspect()).disposition is Disposition.ANSWERED


@pytest.mark.parametrize("data", [b"POST / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"x" * 5000])
@pytest.mark.parametrize("is_probe_source", [True, False])
async def test_what_is_no_probe_reaches_the_application_whole(
    meeting: Meeting, data: bytes, is_probe_source: bool
) -> None:
    meeting.peers.probers = is_probe_source
    await meeting.client.send_all(data)
    inspection = await meeting.inspect()
    assert inspection == Inspection(Disposition.NEEDS_APPLICATION if is_probe_source else Disposition.PASS_ON)
    assert bool(meeting.lookup.forgotten) is not is_probe_source, "somebody's data counts"
    assert await meeting.rest() == data


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("data", [b"", b"GET / HT", HTTP_PROBE[:-1], PREFACE[:10]])
async def test_nobody_is_waited_for_for_long(meeting: Meeting, data: bytes) -> None:
    await meeting.client.send_all(data)
    assert await meeting.inspect() == Inspection(Disposition.PASS_ON)
    assert await meeting.rest() == data


@pytest.mark.usefixtures("impatient")
async def test_a_prober_that_does_not_get_to_speak_is_waited_for(meeting: Meeting) -> None:
    meeting.peers.probers = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meeting.inspect)
        await trio.sleep(2 * probe_inspector.CLIENTS_PATIENCE)
        await meeting.client.send_all(HTTP_PROBE)
        assert (await meeting.client.receive_some()).startswith(b"HTTP/1.1 200 OK\r\n")
        await meeting.client.aclose()
    assert meeting.inspector.answered == 1


@pytest.mark.usefixtures("impatient")
async def test_a_prober_may_close_it_as_the_time_is_over(meeting: Meeting) -> None:
    meeting.peers.asked = partial(trio.from_thread.run_sync, meeting.client.socket.close)
    assert await meeting.inspect() == Inspection(Disposition.ANSWERED)
    assert meeting.inspector.answered == 1


@pytest.mark.usefixtures("impatient")
async def test_the_end_of_what_was_closed_may_be_on_its_way(meeting: Meeting) -> None:
    meeting.peers.closed = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meeting.inspect)
        await trio.sleep(2 * probe_inspector.CLIENTS_PATIENCE)
        await meeting.client.aclose()
    assert meeting.inspector.answered == 1
    assert not meeting.lookup.forgotten


def grpc_in_parts() -> tuple[bytes, bytes]:
    """What a gRPC probe says before it has heard our SETTINGS, and after that."""
    probe = grpc()
    greeting = len(PREFACE) + len(SETTINGS) + int.from_bytes(probe[len(PREFACE) :][:3], "big")
    return probe[:greeting], probe[greeting:]


async def answered_over_http2(meeting: Meeting, question: bytes) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meeting.inspect)
        assert await meeting.client.receive_some() == SETTINGS
        await meeting.client.send_all(ACKNOWLEDGED + question)
        assert await meeting.client.receive_some()
        await meeting.client.aclose()
    assert meeting.inspector.answered == 1


@pytest.mark.usefixtures("impatient")
async def test_a_prober_may_ask_as_the_time_is_over(meeting: Meeting) -> None:
    def ask() -> None:
        os.write(meeting.client.socket.fileno(), greeting)
        meeting.peers.asked = lambda: None

    greeting, question = grpc_in_parts()
    meeting.peers.probers, meeting.peers.asked = True, ask
    await answered_over_http2(meeting, question)


async def test_a_probe_whose_prober_has_given_up_wakes_nobody(meeting: Meeting) -> None:
    meeting.peers.closed = True
    await meeting.client.send_all(HTTP_PROBE)
    await meeting.client.aclose()
    assert await meeting.inspect() == Inspection(Disposition.ANSWERED)
    assert meeting.inspector.answered == 1


async def test_who_leaves_at_once_has_said_it_to_the_application(meeting: Meeting) -> None:
    meeting.peers.closed = True
    await meeting.client.send_all(b"GET /count-me HTTP/1.1\r\n\r\n")
    await meeting.client.aclose()
    assert await meeting.inspect() == Inspection(Disposition.PASS_ON)


async def test_settings_are_sent_though_the_time_is_over_as_they_are_asked_for(
    meeting: Meeting, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Peeker):
        """On a machine that is busy in the moment in which other tasks get their turn after the data has been read."""

        async def more(self, most: int) -> None:
            await super().more(most)
            mock_clock.jump(probe_inspector.CLIENTS_PATIENCE)
            await trio.lowlevel.cancel_shielded_checkpoint()

    monkeypatch.setattr(probe_inspector, "Peeker", Slow)
    meeting.peers.probers = True
    greeting, question = grpc_in_parts()
    await meeting.client.send_all(greeting)
    await answered_over_http2(meeting, question)


async def test_looking_for_its_process_keeps_nothing_else_waiting(meeting: Meeting) -> None:
    may_go_on, went_on = threading.Event(), []
    meeting.peers.asked = lambda: went_on.append(may_go_on.wait(10))
    await meeting.client.send_all(b"no HTTP at all\n")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meeting.inspect)
        await trio.sleep(0.05)
        may_go_on.set()
    assert went_on == [True]


async def test_half_a_request_and_the_end_are_the_applications_to_judge(meeting: Meeting) -> None:
    await meeting.client.send_all(b"GET /")
    await meeting.client.send_eof()
    assert await meeting.inspect() == Inspection(Disposition.PASS_ON)
    assert b"".join([data async for data in meeting.accepted]) == b"GET /"


async def test_who_was_sent_settings_meets_an_application_that_knows_nothing_of_them(meeting: Meeting) -> None:
    first = PREFACE + SETTINGS
    request = bytes.fromhex("000003010500000001") + b"\x83\x86\x84"
    await meeting.client.send_all(first)
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            assert await meeting.client.receive_some() == SETTINGS
            await meeting.client.send_all(ACKNOWLEDGED + request)

        nursery.start_soon(ask)
        inspection = await meeting.inspect()
    assert inspection == Inspection(Disposition.PASS_ON, first + request)
    assert await meeting.rest() == b""


async def test_without_a_hint_nobody_is_looked_at(meeting: Meeting) -> None:
    meeting.lookup.hinted = False
    await meeting.client.send_all(HTTP_PROBE)
    assert await meeting.inspect() == Inspection(Disposition.PASS_ON)
    assert await meeting.rest() == HTTP_PROBE


@pytest.mark.parametrize(
    ("wants", "said"), [(Disposition.NEEDS_APPLICATION, FlowOrigin.PROBE), (Disposition.PASS_ON, FlowOrigin.CLIENT)]
)
def test_the_kernel_is_told_what_our_own_connections_are(wants: Disposition, said: FlowOrigin) -> None:
    lookup = FakeLookup()
    announced = inspector_with(lookup, FakePeers(), FakeExaminer()).announced(wants, 80)
    flow = Flow(("10.0.0.7", 40000), 80)
    with announced(flow.remote):
        assert (lookup.said, lookup.forgotten) == ([(flow, said)], [])
    assert lookup.forgotten == ([flow] if wants is Disposition.PASS_ON else [])
