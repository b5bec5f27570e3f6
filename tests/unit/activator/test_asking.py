"""Putting a probe's question to an application, and telling the prober what it has answered."""

from collections.abc import Iterator
from itertools import pairwise

import h2.events
import h11
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.unit.activator.openings import ANYTHING, CHECK, LIKELY, NO_WINDOW, WATCH, frame, grpc, http

from zeropod.activator.answer import UNIMPLEMENTED, answer
from zeropod.activator.asking import MOST, SERVING, Asking, Outcome
from zeropod.activator.opening import PREFACE, PROBES, SETTINGS, Kind, Question, judge

PATIENT = settings(deadline=None)
WELL = {Kind.HTTP: Outcome(True, 200), Kind.GRPC: Outcome(True, 0, body=SERVING), Kind.GRPC_OTHER: UNIMPLEMENTED}


def question(data: bytes) -> Question:
    found = judge(data, 1024).question
    assert found is not None
    return found


def told(kind: Kind, data: bytes, outcome: Outcome, greeted: bool = False) -> bytes:
    answered = answer(kind, data, outcome, greeted=greeted)
    assert answered is not None
    return answered


def in_pieces(data: bytes, cuts: set[int]) -> Iterator[bytes]:
    ends = [0, *sorted(cut for cut in cuts if 0 < cut < len(data)), len(data)]
    return (data[start:end] for start, end in pairwise(ends))


# What the prober is told is understood by a client that has asked the same: a round trip through both modules.


@PATIENT
@given(
    st.sampled_from([http(), http("/ready", more={"Accept": "*/*"})]),
    st.integers(200, 599),
    st.sampled_from([(), ((b"location", b"/there"),)]),
    st.sets(st.integers(1, 200), max_size=8),
)
def test_an_http_probe_is_told_what_the_application_said(
    data: bytes, status: int, headers: tuple[tuple[bytes, bytes], ...], cuts: set[int]
) -> None:
    outcome, asking = Outcome(status < 400, status, headers), Asking(question(data))
    asked = judge(asking.data_to_send(), 1024)
    assert asked.question == question(data)
    for piece in in_pieces(told(Kind.HTTP, data, outcome), cuts):
        assert not asking.over
        asking.receive(piece)
    assert asking.over
    assert asking.outcome == outcome


@PATIENT
@given(
    st.sampled_from([Outcome(True, 0, body=SERVING), Outcome(False, 0, body=b"\0\0\0\0\2\x08\2"), Outcome(False, 5)]),
    st.booleans(),
    st.sets(st.integers(1, 200), max_size=8),
)
def test_a_grpc_probe_is_told_what_the_application_said(outcome: Outcome, greeted: bool, cuts: set[int]) -> None:
    data = grpc(more={"grpc-timeout": "1S", "grpc-accept-encoding": "gzip"})
    asking = Asking(question(data))
    asked = asking.data_to_send()
    assert judge(asked, 1024).question == question(data)
    assert not {b"grpc-timeout", b"grpc-accept-encoding"}.intersection(dict(question(asked).headers))
    answered = told(Kind.GRPC, data, outcome, greeted)
    for piece in in_pieces(SETTINGS + answered if greeted else answered, cuts):
        asking.receive(piece)
    assert asking.over
    assert asking.outcome == outcome


def test_watch_is_refused_as_a_service_without_it_does() -> None:
    client = H2Connection(H2Configuration(header_encoding=None))
    client.initiate_connection()
    client.send_headers(1, [(":method", "POST"), (":scheme", "http"), (":path", CHECK), (":authority", "x")], True)
    events = client.receive_data(told(Kind.GRPC_OTHER, grpc(WATCH), UNIMPLEMENTED))
    (response,) = [event for event in events if isinstance(event, h2.events.ResponseReceived)]
    assert (b"grpc-status", b"12") in [(bytes(name), bytes(value)) for name, value in response.headers]
    assert any(isinstance(event, h2.events.StreamEnded) for event in events)


@PATIENT
@given(LIKELY, st.booleans())
def test_whatever_is_taken_for_a_probe_can_be_asked_and_answered(data: bytes, greeted: bool) -> None:
    opening = judge(data, 1024)
    assume(opening.question)
    assert opening.question is not None
    assert Asking(opening.question).data_to_send()
    answer(opening.kind, data, WELL[opening.kind], greeted=greeted and opening.kind is not Kind.HTTP)


def test_a_prober_that_can_take_no_answer_gets_none() -> None:
    rest = grpc()[len(PREFACE) :]
    settings_frame = 9 + int.from_bytes(rest[:3], "big")
    data = PREFACE + rest[:settings_frame] + NO_WINDOW + rest[settings_frame:]
    assert judge(data, 1024).kind is Kind.GRPC
    assert answer(Kind.GRPC, data, WELL[Kind.GRPC], greeted=False) is None


def test_only_probes_have_an_answer() -> None:
    for kind in set(Kind) - PROBES:
        with pytest.raises(ValueError, match="not a question"):
            answer(kind, b"", Outcome(True, 200), greeted=False)


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Outcome(True, 200)),
        (b"HTTP/1.0 503 Later\r\n\r\nnot now", Outcome(False, 503)),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", Outcome(True, 204)),
        (b"HTTP/1.1 302 F\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", Outcome(True, 302, ((b"location", b"/x"),))),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(MOST), Outcome(True, 200)),
        (b"220 smtp.example\r\n", None),
        (b"", None),
    ],
)
def test_an_applications_answer_is_understood(said: bytes, outcome: Outcome | None) -> None:
    asking = Asking(question(http()))
    for piece in (said, b""):
        if not asking.over:
            asking.receive(piece)
    assert asking.over
    assert asking.outcome == outcome


def test_an_answer_is_read_to_its_end() -> None:
    asking = Asking(question(http()))
    asking.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
    assert not asking.over
    asking.receive(b"k")
    assert asking.over


@PATIENT
@given(
    st.sampled_from([http(), grpc()]),
    st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", SETTINGS, SETTINGS + frame(4, 1, 0, b"")]),
    st.lists(st.one_of(st.binary(max_size=60), ANYTHING), max_size=4),
)
def test_no_answer_whatsoever_fails_or_is_waited_for_after_its_end(
    data: bytes, beginning: bytes, pieces: list[bytes]
) -> None:
    asking = Asking(question(data))
    for piece in (beginning, *pieces, b""):
        if not asking.over:
            asking.data_to_send()
            asking.receive(piece)
    assert asking.over


def test_h11_agrees_that_the_answer_ends_the_connection() -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/healthz", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(told(Kind.HTTP, http(), WELL[Kind.HTTP]))
    assert isinstance(client.next_event(), h11.Response)
    assert isinstance(client.next_event(), h11.EndOfMessage)
    assert client.their_state is h11.MUST_CLOSE
