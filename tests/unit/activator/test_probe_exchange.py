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
from tests.unit.activator.first_bytes import ANYTHING, CHECK, LIKELY, NO_WINDOW, PROBES, WATCH, frame, grpc, http

from zeropod.activator.answer import UNIMPLEMENTED, answer
from zeropod.activator.classify import PREFACE, SETTINGS, ProbeKind, ProbeRequest, classify
from zeropod.activator.probe_results import LONGEST_ANSWER, SERVING, ProbeExchange, ProbeResult

PATIENT = settings(deadline=None)
WELL = {
    ProbeKind.HTTP: ProbeResult(True, 200),
    ProbeKind.GRPC: ProbeResult(True, 0, body=SERVING),
    ProbeKind.GRPC_OTHER: UNIMPLEMENTED,
}


def question(data: bytes) -> ProbeRequest:
    found = classify(data, 1024).request
    assert found is not None
    return found


def told(kind: ProbeKind, data: bytes, result: ProbeResult, greeted: bool = False) -> bytes:
    answered = answer(kind, data, result, greeted=greeted)
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
    result, exchange = ProbeResult(status < 400, status, headers), ProbeExchange(question(data))
    asked = classify(exchange.data_to_send(), 1024)
    assert asked.request == question(data)
    for piece in in_pieces(told(ProbeKind.HTTP, data, result), cuts):
        assert not exchange.over
        exchange.receive(piece)
    assert exchange.over
    assert exchange.result == result


@PATIENT
@given(
    st.sampled_from(
        [ProbeResult(True, 0, body=SERVING), ProbeResult(False, 0, body=b"\0\0\0\0\2\x08\2"), ProbeResult(False, 5)]
    ),
    st.booleans(),
    st.sets(st.integers(1, 200), max_size=8),
)
def test_a_grpc_probe_is_told_what_the_application_said(result: ProbeResult, greeted: bool, cuts: set[int]) -> None:
    data = grpc(more={"grpc-timeout": "1S", "grpc-accept-encoding": "gzip"})
    exchange = ProbeExchange(question(data))
    asked = exchange.data_to_send()
    assert classify(asked, 1024).request == question(data)
    assert not {b"grpc-timeout", b"grpc-accept-encoding"}.intersection(dict(question(asked).headers))
    answered = told(ProbeKind.GRPC, data, result, greeted)
    for piece in in_pieces(SETTINGS + answered if greeted else answered, cuts):
        exchange.receive(piece)
    assert exchange.over
    assert exchange.result == result


def test_watch_is_refused_as_a_service_without_it_does() -> None:
    client = H2Connection(H2Configuration(header_encoding=None))
    client.initiate_connection()
    client.send_headers(1, [(":method", "POST"), (":scheme", "http"), (":path", CHECK), (":authority", "x")], True)
    events = client.receive_data(told(ProbeKind.GRPC_OTHER, grpc(WATCH), UNIMPLEMENTED))
    (response,) = [event for event in events if isinstance(event, h2.events.ResponseReceived)]
    assert (b"grpc-status", b"12") in [(bytes(name), bytes(value)) for name, value in response.headers]
    assert any(isinstance(event, h2.events.StreamEnded) for event in events)


@PATIENT
@given(LIKELY, st.booleans())
def test_whatever_is_taken_for_a_probe_can_be_asked_and_answered(data: bytes, greeted: bool) -> None:
    opening = classify(data, 1024)
    assume(opening.request)
    assert opening.request is not None
    assert ProbeExchange(opening.request).data_to_send()
    answer(opening.kind, data, WELL[opening.kind], greeted=greeted and opening.kind is not ProbeKind.HTTP)


def test_a_prober_that_can_take_no_answer_gets_none() -> None:
    rest = grpc()[len(PREFACE) :]
    settings_frame = 9 + int.from_bytes(rest[:3], "big")
    data = PREFACE + rest[:settings_frame] + NO_WINDOW + rest[settings_frame:]
    assert classify(data, 1024).kind is ProbeKind.GRPC
    assert answer(ProbeKind.GRPC, data, WELL[ProbeKind.GRPC], greeted=False) is None


def test_only_probes_have_an_answer() -> None:
    for kind in set(ProbeKind) - PROBES:
        with pytest.raises(ValueError, match="cannot be answered"):
            answer(kind, b"", ProbeResult(True, 200), greeted=False)


@pytest.mark.parametrize(
    ("said", "result"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ProbeResult(True, 200)),
        (b"HTTP/1.0 503 Later\r\n\r\nnot now", ProbeResult(False, 503)),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", ProbeResult(True, 204)),
        (
            b"HTTP/1.1 302 F\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
            ProbeResult(True, 302, ((b"location", b"/x"),)),
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(LONGEST_ANSWER), ProbeResult(True, 200)),
        (b"220 smtp.example\r\n", None),
        (b"", None),
    ],
)
def test_an_applications_answer_is_understood(said: bytes, result: ProbeResult | None) -> None:
    exchange = ProbeExchange(question(http()))
    for piece in (said, b""):
        if not exchange.over:
            exchange.receive(piece)
    assert exchange.over
    assert exchange.result == result


def test_an_answer_is_read_to_its_end() -> None:
    exchange = ProbeExchange(question(http()))
    exchange.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
    assert not exchange.over
    exchange.receive(b"k")
    assert exchange.over


@PATIENT
@given(
    st.sampled_from([http(), grpc()]),
    st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", SETTINGS, SETTINGS + frame(4, 1, 0, b"")]),
    st.lists(st.one_of(st.binary(max_size=60), ANYTHING), max_size=4),
)
def test_no_answer_whatsoever_fails_or_is_waited_for_after_its_end(
    data: bytes, beginning: bytes, pieces: list[bytes]
) -> None:
    exchange = ProbeExchange(question(data))
    for piece in (beginning, *pieces, b""):
        if not exchange.over:
            exchange.data_to_send()
            exchange.receive(piece)
    assert exchange.over


def test_h11_agrees_that_the_answer_ends_the_connection() -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/healthz", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(told(ProbeKind.HTTP, http(), WELL[ProbeKind.HTTP]))
    assert isinstance(client.next_event(), h11.Response)
    assert isinstance(client.next_event(), h11.EndOfMessage)
    assert client.their_state is h11.MUST_CLOSE
