"""Whose bytes they are: a prober's, or somebody's who wants the application."""

import h2.events
import h11
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zeropod.activator.answer import answer
from zeropod.activator.opening import (
    ACKNOWLEDGED,
    HEALTH,
    PREFACE,
    PROBES,
    SETTINGS,
    Kind,
    judge,
    without_acknowledgement,
)

LIMIT = 1024
PATIENT = settings(deadline=None)
CHECK = (HEALTH + b"Check").decode()
AGENT = "kube-probe/1.34"

TOKENS = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)
AGENTS = st.one_of(
    st.none(), VALUES, st.sampled_from(["curl/8", "Kube-probe/1", "kube-prob", " kube-probe", "grpc-go/1"])
)
HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(190))


def http(
    target: str = "/healthz", agent: str | None = AGENT, method: str = "GET", more: dict[str, str] | None = None
) -> bytes:
    headers = {"Host": "10.0.0.7:8080", **({"User-Agent": agent} if agent is not None else {}), **(more or {})}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def grpc(path: str = CHECK, agent: str | None = AGENT + " grpc-go/1.72", body: bytes = bytes(5)) -> bytes:
    """What grpc-go sends, after the preface with its SETTINGS; all of it."""
    client = H2Connection(H2Configuration())
    client.initiate_connection()
    headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "10.0.0.7:8080")]
    headers += [("content-type", "application/grpc"), ("te", "trailers")]
    client.send_headers(1, headers + ([("user-agent", agent)] if agent is not None else []))
    client.send_data(1, body, end_stream=True)
    return client.data_to_send()


def prefixes(data: bytes) -> list[Kind]:
    return [judge(data[:length], LIMIT).kind for length in range(len(data) + 1)]


def test_a_probe_is_a_probe_when_all_of_it_is_there_and_not_before() -> None:
    for data, kind in (
        (http(), Kind.HTTP),
        (http("/", more={"Accept": "*/*", "Connection": "close"}), Kind.HTTP),
        (grpc(), Kind.GRPC),
        (grpc(body=b"\0\0\0\0\5\x0a\3abc"), Kind.GRPC),
        (grpc(HEALTH.decode() + "Watch"), Kind.GRPC_OTHER),
    ):
        *before, last = prefixes(data)
        assert last is kind
        assert {*before} <= {Kind.UNDECIDED, Kind.AWAITS_SETTINGS}


def test_probes_of_the_same_subject_ask_the_same() -> None:
    assert judge(http(), LIMIT) == judge(http(agent="kube-probe/1.35"), LIMIT)
    assert judge(http(), LIMIT) != judge(http("/ready"), LIMIT)
    assert judge(grpc(), LIMIT) != judge(grpc(body=b"\0\0\0\0\5\x0a\3abc"), LIMIT)


@pytest.mark.parametrize(
    "data",
    [
        http(agent=None),
        http(agent="curl/8.5"),
        http(agent="Mozilla kube-probe/1.34"),
        http(method="POST"),
        http(method="HEAD"),
        http(more={"user-agent": "curl/8.5"}),
        http(more={"Content-Length": "5"}),
        http(more={"Transfer-Encoding": "chunked"}),
        http(more={"Upgrade": "websocket", "Connection": "upgrade"}),
        http() + http(),
        http() + b"x",
        http(more={"X": "y" * LIMIT}),
        grpc("/shop.Cart/Add"),
        grpc(agent="grpc-go/1.72"),
        grpc(agent=None),
        HELLO,
        b"*1\r\n$4\r\nPING\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"GE\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        PREFACE + bytes(9),
        PREFACE + bytes.fromhex("000005010500000001") + b"\xff" * 5,
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ],
)
def test_everything_else_is_the_applications(data: bytes) -> None:
    assert judge(data, LIMIT).kind is Kind.APPLICATION


@pytest.mark.parametrize("data", [b"", b"G", b"GET /", b"P", PREFACE, http()[:-1]])
def test_what_may_still_become_a_probe_is_waited_for(data: bytes) -> None:
    assert judge(data, LIMIT).kind is Kind.UNDECIDED


def test_a_grpc_client_that_waits_for_settings_is_noticed() -> None:
    client = H2Connection(H2Configuration())
    client.initiate_connection()
    assert judge(client.data_to_send(), LIMIT).kind is Kind.AWAITS_SETTINGS


REQUESTS = st.one_of(
    st.builds(
        http,
        st.one_of(st.just("/"), VALUES.map("/".__add__)),
        AGENTS,
        st.sampled_from(["GET", "GET", "POST", "PUT", "get"]),
        st.dictionaries(TOKENS, VALUES, max_size=4),
    ),
    st.builds(grpc, st.one_of(st.just(CHECK), VALUES.map("/".__add__)), AGENTS, st.binary(max_size=40)),
    st.binary(max_size=200),
    st.binary(max_size=80).map(PREFACE.__add__),
    st.binary(max_size=80).map(b"GET / HTTP/1.1\r\n".__add__),
    st.binary(max_size=80).map(HELLO.__add__),
)


@PATIENT
@given(REQUESTS.filter(lambda data: AGENT.encode()[:11] not in data))
@example(http(agent="grpc-go/1"))
def test_without_the_probers_name_nothing_is_ever_a_probe(data: bytes) -> None:
    assert not PROBES.intersection(prefixes(data))


@PATIENT
@given(REQUESTS, st.binary(min_size=1, max_size=20))
def test_a_judgement_holds_but_for_more_than_one_probe_says(data: bytes, more: bytes) -> None:
    for before, after in zip(kinds := prefixes(data + more), kinds[1:], strict=False):
        if before is Kind.APPLICATION:
            assert after is Kind.APPLICATION
        elif before in PROBES:
            assert after in (before, Kind.APPLICATION)


@PATIENT
@given(
    st.one_of(st.just(http()), st.just(grpc())),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_a_damaged_probe_is_an_undamaged_one_or_none(data: bytes, damage: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for position, value in damage:
        damaged[position % len(damaged)] = value
    assert set(prefixes(bytes(damaged))) <= set(Kind)


@PATIENT
@given(st.sampled_from([http(), grpc(), grpc(HEALTH.decode() + "Watch")]), st.booleans())
def test_each_probe_gets_an_answer_that_its_client_understands(data: bytes, greeted: bool) -> None:
    kind = judge(data, LIMIT).kind
    given_answer = answer(kind, data, greeted=greeted and kind is not Kind.HTTP)
    if kind is Kind.HTTP:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/healthz", headers=[("host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(given_answer)
        response = client.next_event()
        assert isinstance(response, h11.Response)
        assert response.status_code == 200
        assert isinstance(client.next_event(), h11.EndOfMessage)
        return
    events = conversation(data, SETTINGS + given_answer if greeted else given_answer)
    trailers = dict(events[-1])
    assert trailers[b"grpc-status"] == (b"0" if kind is Kind.GRPC else b"12")


def conversation(question: bytes, answered: bytes) -> list[list[tuple[bytes, bytes]]]:
    """The header blocks that gRPC's client gets, the last one being the trailers."""
    client = H2Connection(H2Configuration(header_encoding=None))
    client.initiate_connection()
    client.send_headers(1, [(":method", "POST"), (":scheme", "http"), (":path", CHECK), (":authority", "x")], True)
    events = client.receive_data(answered)
    settings = [event for event in events if isinstance(event, h2.events.RemoteSettingsChanged)]
    assert len(settings) == 1
    blocks = [event.headers for event in events if isinstance(event, h2.events.ResponseReceived)]
    blocks += [event.headers for event in events if isinstance(event, h2.events.TrailersReceived)]
    return [[(bytes(name), bytes(value)) for name, value in block] for block in blocks]


def test_only_probes_have_an_answer() -> None:
    for kind in set(Kind) - PROBES:
        with pytest.raises(ValueError, match="not a question"):
            answer(kind, b"", greeted=False)


@PATIENT
@given(st.integers(0, 3))
def test_the_acknowledgement_of_our_settings_is_taken_out_wherever_it_stands(position: int) -> None:
    client = H2Connection(H2Configuration())
    client.initiate_connection()
    own = client.data_to_send()
    frames = [own, grpc()[len(own) :][:0], b"\0\0\4\x08\0\0\0\0\0\0\0\1\0", ACKNOWLEDGED]
    frames.insert(min(position, 2) + 1, frames.pop())
    data = b"".join(frames)
    assert without_acknowledgement(data) == data.replace(ACKNOWLEDGED, b"")
    assert without_acknowledgement(own) is None


@PATIENT
@given(st.binary(max_size=100))
def test_looking_for_the_acknowledgement_never_fails(data: bytes) -> None:
    without_acknowledgement(PREFACE + data)
