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
from tests.unit.activator.openings import grpc
from trio.testing import MockClock

from zeropod.activator import inspector
from zeropod.activator.asking import Outcome
from zeropod.activator.connect import OurConnections
from zeropod.activator.examiner import Examination
from zeropod.activator.inspector import Finding, Inspector, Wants
from zeropod.activator.opening import ACKNOWLEDGED, PREFACE, SETTINGS, Kind
from zeropod.activator.peeker import Peeker
from zeropod.kernel.lookup import Flow, Said

HTTP_PROBE = b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: kube-probe/1.34\r\n\r\n"
LIMIT = 1024


@dataclass
class FakeLookup:
    """Everybody may be a prober who was not forgotten."""

    hinted: bool = True
    forgotten: list[Flow] = field(default_factory=list)
    said: list[tuple[Flow, Said]] = field(default_factory=list)

    def flow(self, flow: Flow) -> int | None:
        return 12345 if self.hinted else None

    def forget(self, flow: Flow) -> None:
        self.forgotten.append(flow)

    def say(self, flow: Flow, said: Said) -> None:
        self.said.append((flow, said))


class FakeExaminer:
    """Knows what the application has said, or would say."""

    def __init__(self) -> None:
        self.known: Outcome | None = Outcome(True, 200)
        self.would_say: Outcome | None = None
        self.asked: list[Examination] = []

    def outcome(self, examination: Examination) -> Outcome | None:
        return self.known

    async def ask(self, examination: Examination) -> Outcome | None:
        self.asked.append(examination)
        return self.would_say


@dataclass
class FakePeers:
    """Who is at the other end."""

    probers: bool = False
    closed: bool = False
    asked: Callable[[], None] = lambda: None
    """Called as the first is looked for."""

    def is_probers(self, own: tuple[str, int], other: tuple[str, int], /) -> bool:
        self.asked()
        return self.probers

    def has_closed(self, own: tuple[str, int], other: tuple[str, int], /) -> bool:
        return self.closed


def inspector_with(lookup: Any, peers: FakePeers, examiner: Any) -> Inspector:
    return Inspector(lookup, LIMIT, peers, examiner, OurConnections(lookup))


class Meeting:
    """An inspector, and the two ends of a connection that it is to look at."""

    def __init__(self, client: trio.SocketStream, accepted: trio.SocketStream) -> None:
        self.client, self.accepted = client, accepted
        self.lookup = FakeLookup()
        self.peers = FakePeers()
        self.examiner = FakeExaminer()
        self.inspector = inspector_with(self.lookup, self.peers, self.examiner)

    async def inspect(self) -> Finding:
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
    monkeypatch.setattr(inspector, "PATIENCE", 0.05)


async def test_a_probe_that_comes_byte_by_byte_is_answered(meeting: Meeting) -> None:
    meeting.peers.probers = True
    async with trio.open_nursery() as nursery:
        findings: list[Finding] = []

        async def inspect() -> None:
            findings.append(await meeting.inspect())

        nursery.start_soon(inspect)
        for position in range(len(HTTP_PROBE)):
            await meeting.client.send_all(HTTP_PROBE[position : position + 1])
            await trio.lowlevel.checkpoint()
        assert (await meeting.client.receive_some()).startswith(b"HTTP/1.1 200 OK\r\n")
        await meeting.client.aclose()
    assert findings == [Finding(Wants.NOTHING)]
    assert meeting.inspector.answered == 1


async def test_a_probe_is_told_what_the_application_said_last(meeting: Meeting) -> None:
    meeting.peers.probers, meeting.examiner.known = True, Outcome(False, 503)
    await meeting.client.send_all(HTTP_PROBE)
    await meeting.client.send_eof()
    assert await meeting.inspect() == Finding(Wants.NOTHING)
    assert (await meeting.client.receive_some()).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("said", [Outcome(True, 200), Outcome(False, 503), None])
async def test_what_was_not_asked_before_is_asked_of_the_application(meeting: Meeting, said: Outcome | None) -> None:
    meeting.peers.probers, meeting.examiner.known, meeting.examiner.would_say = True, None, said
    address = meeting.client.socket.getpeername()
    await meeting.client.send_all(HTTP_PROBE)
    await meeting.client.send_eof()
    finding = await meeting.inspect()
    assert finding.wants is Wants.PROBE
    assert finding.asked is not None
    assert meeting.examiner.asked == []
    assert await meeting.inspector.ask(meeting.accepted, finding.asked) is bool(said and said.well)
    (examination,) = meeting.examiner.asked
    assert examination.target == address
    assert (examination.question.kind, meeting.inspector.answered) == (Kind.HTTP, 0)
    answered = await meeting.client.receive_some()
    assert answered[:13] == (f"HTTP/1.1 {said.status} ".encode() if said else b"")


async def test_who_says_to_be_a_prober_and_is_none_gets_the_application(meeting: Meeting) -> None:
    await meeting.client.send_all(HTTP_PROBE)
    assert await meeting.inspect() == Finding(Wants.APPLICATION)
    assert meeting.lookup.forgotten
    assert await meeting.rest() == HTTP_PROBE


async def test_closing_without_a_word_is_a_probe(meeting: Meeting) -> None:
    await meeting.client.aclose()
    assert (await meeting.inspect()).wants is Wants.NOTHING
    assert meeting.inspector.answered == 1


async def test_a_reset_wants_nothing(meeting: Meeting) -> None:
    meeting.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes.fromhex("0100000000000000"))
    await meeting.client.aclose()
    assert (await meeting.inspect()).wants is Wants.NOTHING


@pytest.mark.parametrize("data", [b"POST / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"x" * 5000])
@pytest.mark.parametrize("is_probers", [True, False])
async def test_what_is_no_probe_reaches_the_application_whole(meeting: Meeting, data: bytes, is_probers: bool) -> None:
    meeting.peers.probers = is_probers
    await meeting.client.send_all(data)
    finding = await meeting.inspect()
    assert finding == Finding(Wants.PROBE if is_probers else Wants.APPLICATION)
    assert bool(meeting.lookup.forgotten) is not is_probers, "somebody's data counts"
    assert await meeting.rest() == data


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("data", [b"", b"GET / HT", HTTP_PROBE[:-1], PREFACE[:10]])
async def test_nobody_is_waited_for_for_long(meeting: Meeting, data: bytes) -> None:
    await meeting.client.send_all(data)
    assert await meeting.inspect() == Finding(Wants.APPLICATION)
    assert await meeting.rest() == data


@pytest.mark.usefixtures("impatient")
async def test_a_prober_that_does_not_get_to_speak_is_waited_for(meeting: Meeting) -> None:
    meeting.peers.probers = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meeting.inspect)
        await trio.sleep(2 * inspector.PATIENCE)
        await meeting.client.send_all(HTTP_PROBE)
        assert (await meeting.client.receive_some()).startswith(b"HTTP/1.1 200 OK\r\n")
        await meeting.client.aclose()
    assert meeting.inspector.answered == 1


@pytest.mark.usefixtures("impatient")
async def test_a_prober_may_close_it_as_the_time_is_over(meeting: Meeting) -> None:
    meeting.peers.asked = partial(trio.from_thread.run_sync, meeting.client.socket.close)
    assert await meeting.inspect() == Finding(Wants.NOTHING)
    assert meeting.inspector.answered == 1


@pytest.mark.usefixtures("impatient")
async def test_the_end_of_what_was_closed_may_be_on_its_way(meeting: Meeting) -> None:
    meeting.peers.closed = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meeting.inspect)
        await trio.sleep(2 * inspector.PATIENCE)
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
    assert await meeting.inspect() == Finding(Wants.NOTHING)
    assert meeting.inspector.answered == 1


async def test_who_leaves_at_once_has_said_it_to_the_application(meeting: Meeting) -> None:
    meeting.peers.closed = True
    await meeting.client.send_all(b"GET /count-me HTTP/1.1\r\n\r\n")
    await meeting.client.aclose()
    assert await meeting.inspect() == Finding(Wants.APPLICATION)


async def test_settings_are_sent_though_the_time_is_over_as_they_are_asked_for(
    meeting: Meeting, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Peeker):
        """On a machine that is busy in the moment in which other tasks get their turn after the data has been read."""

        async def more(self, most: int) -> None:
            await super().more(most)
            mock_clock.jump(inspector.PATIENCE)
            await trio.lowlevel.cancel_shielded_checkpoint()

    monkeypatch.setattr(inspector, "Peeker", Slow)
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
    assert await meeting.inspect() == Finding(Wants.APPLICATION)
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
        finding = await meeting.inspect()
    assert finding == Finding(Wants.APPLICATION, first + request)
    assert await meeting.rest() == b""


async def test_without_a_hint_nobody_is_looked_at(meeting: Meeting) -> None:
    meeting.lookup.hinted = False
    await meeting.client.send_all(HTTP_PROBE)
    assert await meeting.inspect() == Finding(Wants.APPLICATION)
    assert await meeting.rest() == HTTP_PROBE


@pytest.mark.parametrize(("wants", "said"), [(Wants.PROBE, Said.A_PROBES), (Wants.APPLICATION, Said.SOMEBODYS)])
def test_the_kernel_is_told_what_our_own_connections_are(wants: Wants, said: Said) -> None:
    lookup = FakeLookup()
    announced = inspector_with(lookup, FakePeers(), FakeExaminer()).announced(wants, 80)
    flow = Flow(("10.0.0.7", 40000), 80)
    with announced(flow.remote):
        assert (lookup.said, lookup.forgotten) == ([(flow, said)], [])
    assert lookup.forgotten == ([flow] if wants is Wants.APPLICATION else [])
