"""Whose bytes they are: a prober's, or somebody's who wants the application."""

import gc
import http.client
import io

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.activator.first_bytes import (
    ANYTHING,
    DAMAGE,
    GOAWAY,
    PROBES,
    RESET,
    SOMEBODYS,
    WATCH,
    damaged,
    frame,
    grpc,
    tls,
)
from tests.unit.activator.first_bytes import http as get

from zeropod.activator.answer import answer
from zeropod.activator.classify import ACKNOWLEDGED, PREFACE, ProbeKind, classify, without_acknowledgement
from zeropod.activator.probe_results import SERVING, ProbeResult

LIMIT = 1024
PATIENT = settings(deadline=None)
SPLITS = st.sets(st.integers(0, 1200), max_size=8)
"""How many bytes have come at each look."""


def prefixes(data: bytes, cuts: object = None) -> list[ProbeKind]:
    """What is made of ever more of the data."""
    lengths = range(len(data)) if cuts is None else sorted(cut for cut in cuts if cut < len(data))  # type: ignore[attr-defined]
    return [classify(data[:length], LIMIT).kind for length in (*lengths, len(data))]


def test_a_probe_is_a_probe_when_all_of_it_is_there_and_not_before() -> None:
    for data, kind in (
        (get(), ProbeKind.HTTP),
        (get("/", more={"Accept": "*/*", "Connection": "close"}), ProbeKind.HTTP),
        (grpc(), ProbeKind.GRPC),
        (grpc(body=b"\0\0\0\0\5\x0a\3abc"), ProbeKind.GRPC),
        (grpc(WATCH), ProbeKind.GRPC_OTHER),
    ):
        *before, last = prefixes(data)
        assert last is kind
        assert {*before} <= {ProbeKind.UNDECIDED, ProbeKind.AWAITS_SETTINGS}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (get(), get(agent="kube-probe/1.35"), True),
        (get(), get("/ready"), False),
        (get(), get(more={"X-Shop": "1"}), False),
        (grpc(), grpc(agent="kube-probe/1.35"), True),
        (grpc(), grpc(more={"grpc-timeout": "997823u"}), True),
        (grpc(), grpc(body=b"\0\0\0\0\5\x0a\3abc"), False),
    ],
)
def test_the_same_probe_asks_the_same_every_time(one: bytes, other: bytes, same: bool) -> None:
    first, second = classify(one, LIMIT), classify(other, LIMIT)
    assert first.request is not None
    assert (first.request == second.request) is same


@pytest.mark.parametrize(
    "data",
    [
        get(agent=None),
        get(agent="curl/8.5"),
        get(agent="Mozilla kube-probe/1.34"),
        get(method="POST"),
        get(method="HEAD"),
        get(more={"user-agent": "curl/8.5"}),
        get(more={"Content-Length": "5"}),
        get(more={"Transfer-Encoding": "chunked"}),
        get(more={"Upgrade": "websocket", "Connection": "upgrade"}),
        get() + get(),
        get() + b"x",
        get(more={"X": "y" * LIMIT}),
        grpc("/shop.Cart/Add"),
        grpc(agent="grpc-go/1.72"),
        grpc(agent=None),
        grpc() + RESET,
        grpc() + GOAWAY,
        tls("example.org"),
        b"*1\r\n$4\r\nPING\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"GE\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"GET / HTTP/1.0\r\nUser-Agent: kube-probe/1.34\r\n\r\n",
        PREFACE + bytes(9),
        PREFACE + frame(1, 5, 1, b"\xff" * 5),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ],
)
def test_everything_else_is_the_applications(data: bytes) -> None:
    assert classify(data, LIMIT).kind is ProbeKind.APPLICATION


@pytest.mark.parametrize("data", [b"", b"G", b"GET /", b"P", PREFACE, get()[:-1]])
def test_what_may_still_become_a_probe_is_waited_for(data: bytes) -> None:
    assert classify(data, LIMIT).kind is ProbeKind.UNDECIDED


def test_a_grpc_client_that_waits_for_settings_is_noticed() -> None:
    client = H2Connection(H2Configuration())
    client.initiate_connection()
    assert classify(client.data_to_send(), LIMIT).kind is ProbeKind.AWAITS_SETTINGS


@PATIENT
@given(SOMEBODYS, SPLITS)
@example(get("/kube-probe/1", "grpc-go/1", more={"x": "kube-probe/1"}), set())
def test_a_request_with_another_agent_is_never_a_probe(data: bytes, cuts: set[int]) -> None:
    assert not PROBES.intersection(prefixes(data, cuts))


@PATIENT
@given(ANYTHING, SPLITS)
def test_only_probes_have_a_question_and_all_of_them_do(data: bytes, cuts: set[int]) -> None:
    for length in (*sorted(cuts), len(data)):
        opening = classify(data[:length], LIMIT)
        assert (opening.request is not None) is (opening.kind in PROBES)
        if opening.request:
            assert opening.request.kind is opening.kind
            assert str(opening.request)


@PATIENT
@given(ANYTHING, st.binary(min_size=1, max_size=20), SPLITS)
def test_a_judgement_holds_but_for_more_than_one_probe_says(data: bytes, more: bytes, cuts: set[int]) -> None:
    for before, after in zip(kinds := prefixes(data + more, cuts), kinds[1:], strict=False):
        if before is ProbeKind.APPLICATION:
            assert after is ProbeKind.APPLICATION
        elif before in PROBES:
            assert after in (before, ProbeKind.APPLICATION)


@PATIENT
@given(st.sampled_from([get(), get("/ready", more={"Accept": "*/*"})]), DAMAGE, SPLITS)
def test_whatever_is_taken_for_an_http_probe_says_so_to_another_parser_too(
    data: bytes, damage: list[tuple[int, int]], cuts: set[int]
) -> None:
    data = damaged(data, damage)
    for length in (*(cut for cut in cuts if cut < len(data)), len(data)):
        if classify(data[:length], LIMIT).kind is ProbeKind.HTTP:
            first, rest = data[:length].split(b"\n", 1)
            headers = http.client.parse_headers(io.BytesIO(rest))
            assert first.startswith(b"GET ")
            assert [agent[:11] for agent in headers.get_all("User-Agent", [])] == ["kube-probe/"]


@PATIENT
@given(st.sampled_from([grpc(), grpc(WATCH)]), DAMAGE, SPLITS)
def test_a_damaged_grpc_probe_is_an_undamaged_one_or_none(
    data: bytes, damage: list[tuple[int, int]], cuts: set[int]
) -> None:
    for length in (*cuts, len(data)):
        opening = classify(damaged(data, damage)[:length], LIMIT)
        if opening.request:
            agents = [value for name, value in opening.request.headers if name == b"user-agent"]
            assert [agent[:11] for agent in agents] == [b"kube-probe/"]


@PATIENT
@given(st.integers(0, 3))
def test_the_acknowledgement_of_our_settings_is_taken_out_wherever_it_stands(position: int) -> None:
    client = H2Connection(H2Configuration())
    client.initiate_connection()
    own = client.data_to_send()
    frames = [own, grpc()[len(own) :][:0], frame(8, 0, 0, b"\0\0\1\0"), ACKNOWLEDGED]
    frames.insert(min(position, 2) + 1, frames.pop())
    data = b"".join(frames)
    assert without_acknowledgement(data) == data.replace(ACKNOWLEDGED, b"")
    assert without_acknowledgement(own) is None


@PATIENT
@given(st.binary(max_size=100))
def test_looking_for_the_acknowledgement_never_fails(data: bytes) -> None:
    without_acknowledgement(PREFACE + data)


@pytest.mark.parametrize("data", [get(), grpc(), grpc(WATCH), grpc()[:-1], grpc() + RESET])
def test_nothing_of_a_probe_is_left_for_the_collector(data: bytes) -> None:
    def look() -> None:
        opening = classify(data, LIMIT)
        if opening.kind in PROBES:
            assert answer(opening.kind, data, ProbeResult(well=True, status=200, body=SERVING), greeted=True)

    look()
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            look()
        assert gc.collect() == 0
    finally:
        gc.enable()
