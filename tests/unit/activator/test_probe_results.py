"""What probes ask is remembered, and asked again: of an application that is a task here."""

from contextlib import ExitStack
from typing import Any

import pytest
import trio
from tests.unit.activator.first_bytes import http
from tests.unit.activator.words import FakeWords
from trio.testing import MockClock, memory_stream_pair

from zeropod.activator import probe_results
from zeropod.activator.classify import classify
from zeropod.activator.connect import Announce, OurConnections, SocketAddress
from zeropod.activator.probe_results import (
    ANSWER_WITHIN,
    REQUESTS_REMEMBERED,
    STALE,
    ProbeCheck,
    ProbeResult,
    ProbeResults,
)

TARGET = ("10.0.0.7", 8080)


def question(path: str) -> ProbeCheck:
    found = classify(http(path), 1024).request
    assert found is not None
    return ProbeCheck(TARGET, found)


class Application:
    """Answers each request with what it is told to say; nothing is silence, an OSError is what connecting ends with."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.says: bytes | OSError = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        self.requests: list[str] = []
        words: Any = FakeWords()
        self.results = ProbeResults("/nowhere", OurConnections(words))
        self._nursery = nursery

    async def connect(
        self, target: SocketAddress, netns: object, announce: Announce, known: ExitStack
    ) -> trio.StapledStream:  # type: ignore[type-arg]
        if isinstance(self.says, OSError):
            raise self.says
        known.enter_context(announce((TARGET[0], 40000 + len(self.requests))))
        client, server = memory_stream_pair()
        self._nursery.start_soon(self._serve, server)
        return client

    async def _serve(self, stream: trio.StapledStream) -> None:  # type: ignore[type-arg]
        self.requests.append((await stream.receive_some()).split()[1].decode())
        if isinstance(self.says, bytes) and self.says:
            await stream.send_all(self.says)
            await stream.aclose()


@pytest.fixture
async def application(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Application:
    made = Application(nursery)
    monkeypatch.setattr(probe_results, "connect", made.connect)
    return made


async def test_what_it_has_said_is_known_until_it_says_otherwise(application: Application) -> None:
    asked = application.results
    assert asked.result(question("/a")) is None
    assert await asked.ask(question("/a")) == ProbeResult(True, 200) == asked.result(question("/a"))
    assert asked.result(question("/b")) is None
    assert await asked.ask_all() == []
    application.says = b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n"
    assert await asked.ask_all() == ["GET /a on port 8080: status 503"]
    assert asked.result(question("/a")) == ProbeResult(False, 503)
    assert application.requests == ["/a"] * 3


@pytest.mark.parametrize("says", [b"", b"SSH-2.0\r\n", ConnectionRefusedError(111, "nobody listens")])
async def test_no_answer_is_waited_for_for_a_while_and_is_not_well(
    application: Application, says: bytes | OSError, autojump_clock: MockClock
) -> None:
    application.says = says
    started = trio.current_time()
    assert await application.results.ask(question("/a")) is None
    assert trio.current_time() - started == (ANSWER_WITHIN if says == b"" else 0)
    assert await application.results.ask_all() == ["GET /a on port 8080: no answer"]


async def test_what_fails_for_long_and_is_not_asked_any_more_is_forgotten(
    application: Application, autojump_clock: MockClock
) -> None:
    asked, well = application.results, application.says
    for path in ("/started", "/ready"):
        await asked.ask(question(path))
    await trio.sleep(10 * STALE)
    application.says = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    for _ in range(5):
        assert len(await asked.ask_all()) == 2
        await asked.ask(question("/ready"))  # a prober does
        await trio.sleep(STALE / 4.5)
    assert await asked.ask_all() == ["GET /ready on port 8080: status 404"]
    application.says = well
    assert await asked.ask_all() == []
    assert asked.result(question("/started")) is None


async def test_only_so_many_questions_are_remembered(application: Application) -> None:
    for number in range(REQUESTS_REMEMBERED + 3):
        await application.results.ask(question(f"/{number}"))
    application.requests.clear()
    await application.results.ask_all()
    assert sorted(application.requests) == sorted(f"/{number}" for number in range(3, REQUESTS_REMEMBERED + 3))
