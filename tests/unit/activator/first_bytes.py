"""What clients say first: probes as the kubelet sends them, and everything else, made by real protocol libraries."""

import contextlib
import ssl

from h2.config import H2Configuration
from h2.connection import H2Connection
from hypothesis import strategies as st

from zeropod.activator.classify import HEALTH, PREFACE, ProbeKind

PROBES = frozenset({ProbeKind.HTTP, ProbeKind.GRPC, ProbeKind.GRPC_OTHER})
"""What can be answered without the application."""

CHECK = (HEALTH + b"Check").decode()
WATCH = (HEALTH + b"Watch").decode()
AGENT = "kube-probe/1.34"
GRPC_AGENT = AGENT + " grpc-go/1.72"


def http(
    target: str = "/healthz", agent: str | None = AGENT, method: str = "GET", more: dict[str, str] | None = None
) -> bytes:
    headers = {"Host": "10.0.0.7:8080", **({"User-Agent": agent} if agent is not None else {}), **(more or {})}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def grpc(
    path: str = CHECK, agent: str | None = GRPC_AGENT, body: bytes = bytes(5), more: dict[str, str] | None = None
) -> bytes:
    """What grpc-go sends, after the preface with its SETTINGS; all of it."""
    client = H2Connection(H2Configuration())
    client.initiate_connection()
    headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "10.0.0.7:8080")]
    headers += [("content-type", "application/grpc"), ("te", "trailers"), *(more or {}).items()]
    client.send_headers(1, headers + ([("user-agent", agent)] if agent is not None else []))
    client.send_data(1, body, end_stream=True)
    return client.data_to_send()


def tls(server: str) -> bytes:
    """A ClientHello for this server's name."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=server).do_handshake()
    return outgoing.read()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


RESET = frame(3, 0, 1, b"\0\0\0\x08")
GOAWAY = frame(7, 0, 0, bytes(8))
NO_WINDOW = frame(4, 0, 0, b"\0\4\0\0\0\0")

_GREETING = len(PREFACE) + 9 + int.from_bytes(grpc()[len(PREFACE) :][:3], "big")
"""Where the request begins, behind the client's SETTINGS."""

TOKENS = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12)
VALUES = st.one_of(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30),
    st.sampled_from([AGENT, "kube-probe/", "Mozilla/5.0 kube-probe/1.34"]),
)
"""Of any header but the User-Agent: whatever they are, they make nobody a prober."""

OTHER_AGENTS = st.one_of(
    st.none(),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30).filter(
        lambda text: not text.startswith("kube-probe/")
    ),
    st.sampled_from(["curl/8", "Kube-probe/1", "kube-probe", "kube-prob", "x kube-probe/1", "\tkube-probe\t/1", "("]),
)
HEADERS = st.dictionaries(TOKENS.filter(lambda name: name != "user-agent"), VALUES, max_size=4)
PATHS = st.one_of(st.sampled_from(["/", "/healthz", "*", CHECK, WATCH, "/kube-probe/1"]), VALUES.map("/".__add__))

FRAMES = st.lists(
    st.builds(
        frame,
        st.one_of(st.integers(0, 9), st.integers(0, 255)),
        st.one_of(st.sampled_from([0, 1, 4, 5, 0x25]), st.integers(0, 255)),
        st.one_of(st.integers(0, 3), st.integers(0, 2**32 - 1)),
        st.one_of(st.binary(max_size=20), st.binary(min_size=8, max_size=8), st.just(bytes(4))),
    ),
    max_size=4,
).map(b"".join)

SOMEBODYS = st.one_of(
    st.builds(http, PATHS, OTHER_AGENTS, st.sampled_from(["GET", "GET", "POST", "PUT", "get"]), HEADERS),
    st.builds(grpc, PATHS, OTHER_AGENTS, st.binary(max_size=40), HEADERS),
    st.tuples(st.builds(grpc, PATHS, OTHER_AGENTS), FRAMES).map(b"".join),
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=20).map(lambda name: tls(name + ".example")),
)
"""Requests of clients whose User-Agent is not the kubelet's, though much else about them may look like it."""

HARMLESS = st.lists(
    st.one_of(
        st.builds(frame, st.just(6), st.sampled_from([0, 1]), st.just(0), st.binary(min_size=8, max_size=8)),
        st.builds(frame, st.just(4), st.just(0), st.just(0), st.sampled_from([b"", b"\0\4\0\0\0\0", b"\0\1\0\0\0\0"])),
        st.builds(frame, st.just(8), st.just(0), st.integers(0, 1), st.just(b"\0\0\1\0")),
        st.builds(frame, st.integers(10, 255), st.integers(0, 255), st.integers(0, 3), st.binary(max_size=9)),
    ),
    max_size=4,
).map(b"".join)
"""Frames that are no part of a request, and may come before or after it."""

LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [b"Host: x", b"Content-Length: 0", b"Expect: 100-continue", b" folded", b"TE: trailers", b"A:"]
        ),
        st.binary(max_size=12).map(b"X-Y: ".__add__),
        st.binary(max_size=12),
    ),
    max_size=4,
).map(b"\r\n".join)

LIKELY = st.one_of(
    st.builds(
        lambda target, version, lines, end: (
            b"GET " + target + version + end + b"User-Agent: kube-probe/1" + end + lines + end + end
        ),
        st.one_of(st.just(b"/"), st.binary(max_size=8)),
        st.sampled_from([b" HTTP/1.1", b" HTTP/1.0", b" HTTP/1.2"]),
        LINES,
        st.sampled_from([b"\r\n", b"\n"]),
    ),
    st.builds(http, st.sampled_from(["/", "/healthz?a=1", "*"]), st.just(AGENT), st.just("GET"), HEADERS),
    st.tuples(st.builds(grpc, st.sampled_from([CHECK, WATCH]), body=st.binary(max_size=20)), HARMLESS).map(b"".join),
    st.tuples(st.just(PREFACE), HARMLESS, st.just(grpc()[len(PREFACE) :])).map(b"".join),
    st.tuples(st.just(grpc()[:_GREETING]), HARMLESS, st.just(grpc()[_GREETING:])).map(b"".join),
)
"""Probes, most of them."""

ANYTHING = st.one_of(
    SOMEBODYS,
    LIKELY,
    st.binary(max_size=200),
    st.binary(max_size=80).map(PREFACE.__add__),
    FRAMES.map(PREFACE.__add__),
    st.tuples(st.just(grpc()), FRAMES).map(b"".join),
    st.tuples(st.just(PREFACE), FRAMES, st.just(grpc()[len(PREFACE) :])).map(b"".join),
    st.binary(max_size=80).map(b"GET / HTTP/1.1\r\n".__add__),
    st.binary(max_size=80).map(b"GET / HTTP/1.1\r\nUser-Agent: kube-probe/1\r\n".__add__),
    st.binary(max_size=80).map(tls("example").__add__),
)

DAMAGE = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=5)


def damaged(data: bytes, damage: list[tuple[int, int]]) -> bytes:
    result = bytearray(data)
    for position, value in damage:
        result[position % len(result)] = value
    return bytes(result)
