"""Whatever a shim is sent, it answers with a clear error or hangs up, and it and its containers live on."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration import node
from tests.integration.conftest import OURS
from tests.integration.containerd import Container, Containerd
from tests.integration.cri import Cri
from tests.integration.endpoint import Refused
from tests.integration.shimsocket import CODES, HEADER, REQUEST, SERVICES, ShimSocket, address

from zeropod.rpc.messages import task_pb2, ttrpc_pb2

LARGEST = 4 << 20
PREFIX = "zeropod.ctrox.dev/"


@pytest.fixture(scope="module")
def victim() -> Iterator[Container]:
    """A running container, whose shim has to bear it all."""
    with Containerd() as client, client.container("sleep", "1000", runtime=OURS) as box:
        yield box.run()


@pytest.fixture(scope="module")
def unharmed(victim: Container) -> Callable[[], None]:
    """Checks that the shim is the same process, serves, and that its container runs."""
    with ShimSocket(address(victim.bundle)) as shim:
        before = shim.connect(victim.id)

    def check() -> None:
        with ShimSocket(address(victim.bundle)) as shim:
            assert shim.connect(victim.id) == before
        assert victim.status() == "RUNNING"

    return check


def request(service: str = SERVICES[0], method: str = "State", payload: bytes = b"") -> bytes:
    return ttrpc_pb2.Request(service=service, method=method, payload=payload).SerializeToString()


def read_to_the_end(shim: ShimSocket) -> None:
    """Take all answers until the shim has hung up or has nothing more to say."""
    with suppress(TimeoutError):
        while shim.receive_frame() is not None:
            pass


frames = st.builds(
    lambda length, stream, kind, flags, payload: HEADER.pack(length, stream, kind, flags) + payload,
    st.one_of(st.integers(0, 64), st.integers(0, 2**32 - 1)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=64),
)
streams = st.one_of(st.binary(max_size=400), st.lists(frames, max_size=6).map(b"".join))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=streams)
def test_random_bytes(victim: Container, unharmed: Callable[[], None], data: bytes) -> None:
    with ShimSocket(address(victim.bundle), timeout=0.02) as shim:
        with suppress(BrokenPipeError, ConnectionResetError):
            shim.send(data)
            shim.shut()
        read_to_the_end(shim)
    unharmed()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from([method.name for method in task_pb2.DESCRIPTOR.services_by_name["Task"].methods]),
    payload=st.binary(max_size=80),
)
def test_random_payloads(victim: Container, unharmed: Callable[[], None], method: str, payload: bytes) -> None:
    # A payload may happen to be a request, but none that names this container: ids are not that random.
    with ShimSocket(address(victim.bundle), timeout=5) as shim:
        response = shim.request(SERVICES[0], method, payload)
    assert response.status.code == 0 or response.status.message
    unharmed()


def test_a_frame_cut_off_anywhere(victim: Container, unharmed: Callable[[], None]) -> None:
    payload = request(payload=task_pb2.StateRequest(id=victim.id).SerializeToString())
    whole = HEADER.pack(len(payload), 1, REQUEST, 0) + payload
    for cut in range(len(whole)):
        with ShimSocket(address(victim.bundle)) as shim:
            shim.send(whole[:cut])
    unharmed()


@pytest.mark.parametrize(
    ("service", "method"),
    [
        (SERVICES[0], "Dance"),
        (SERVICES[0], ""),
        ("containerd.dance.v1.Dance", "State"),
        ("", ""),
        ("ä" * 1000, "State"),
    ],
)
def test_an_unknown_method(victim: Container, unharmed: Callable[[], None], service: str, method: str) -> None:
    with ShimSocket(address(victim.bundle)) as shim:
        response = shim.request(service, method, b"")
        assert CODES[response.status.code] == "UNIMPLEMENTED"
        assert service in response.status.message
        assert shim.connect(victim.id).task_pid == victim.get().pid, "the connection goes on"
    unharmed()


def test_a_payload_that_is_no_message(victim: Container, unharmed: Callable[[], None]) -> None:
    with ShimSocket(address(victim.bundle)) as shim:
        response = shim.request(SERVICES[0], "State", b"\xff" * 20)
        assert CODES[response.status.code] == "INVALID_ARGUMENT"
        assert response.status.message
    unharmed()


def test_a_request_that_is_no_message(victim: Container, unharmed: Callable[[], None]) -> None:
    with ShimSocket(address(victim.bundle)) as shim:
        shim.send_frame(1, REQUEST, b"\xff" * 20)
        frame = shim.receive_frame()
        assert frame is not None
        assert CODES[ttrpc_pb2.Response.FromString(frame[2]).status.code] == "INVALID_ARGUMENT"
    unharmed()


def test_a_message_of_4_mib_and_1_byte(victim: Container, unharmed: Callable[[], None]) -> None:
    with ShimSocket(address(victim.bundle)) as shim:
        shim.send_frame(1, REQUEST, bytes(LARGEST + 1))
        frame = shim.receive_frame()
        assert frame is not None
        status = ttrpc_pb2.Response.FromString(frame[2]).status
        assert CODES[status.code] == "RESOURCE_EXHAUSTED"
        assert str(LARGEST) in status.message
        shim._stream = 3
        assert shim.connect(victim.id).task_pid == victim.get().pid, "the connection goes on"
    unharmed()


def test_a_message_of_exactly_4_mib(victim: Container, unharmed: Callable[[], None]) -> None:
    frame_around = len(request(payload=bytes(LARGEST - 100))) - (LARGEST - 100)
    payload = request(payload=bytes(LARGEST - frame_around))
    assert len(payload) == LARGEST
    with ShimSocket(address(victim.bundle)) as shim:
        shim.send_frame(1, REQUEST, payload)
        frame = shim.receive_frame()
        assert frame is not None
        assert CODES[ttrpc_pb2.Response.FromString(frame[2]).status.code] != "RESOURCE_EXHAUSTED"
    unharmed()


def test_an_even_stream_id(victim: Container, unharmed: Callable[[], None]) -> None:
    with ShimSocket(address(victim.bundle)) as shim:
        shim.send_frame(2, REQUEST, request())
        frame = shim.receive_frame()
        assert frame is not None
        assert CODES[ttrpc_pb2.Response.FromString(frame[2]).status.code] == "INVALID_ARGUMENT"
    unharmed()


def test_many_connections_that_say_nothing(victim: Container, unharmed: Callable[[], None]) -> None:
    idle = [ShimSocket(address(victim.bundle)) for _ in range(300)]
    try:
        unharmed()
        for shim in idle:
            shim.send(b"\0\0")
        unharmed()
    finally:
        for shim in idle:
            shim.__exit__()
    unharmed()


def test_a_client_that_reads_no_answers(victim: Container, unharmed: Callable[[], None]) -> None:
    with ShimSocket(address(victim.bundle), timeout=0.5) as shim:
        with suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
            for stream in range(1, 200_000, 2):
                shim.send_frame(stream, REQUEST, request(method="Dance"))
        unharmed()
    unharmed()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scaledown-duration", "soon"),
        ("scaledown-duration", ""),
        ("scaledown-duration", "-1s"),
        ("scaledown-duration", "10"),
        ("ports-map", "app=http"),
        ("ports-map", "8080"),
        ("ports-map", "app=70000"),
        ("pre-dump", "perhaps"),
        ("disable-checkpointing", "2"),
        ("connect-timeout", "5 s"),
        ("proxy-timeout", "1h then some"),
    ],
)
def test_a_bad_annotation_fails_the_creation(containerd: Containerd, name: str, value: str) -> None:
    with containerd.container("sleep", "1000", runtime=OURS, annotations={PREFIX + name: value}) as box:
        with pytest.raises(Refused) as refused:
            box.run()
        assert PREFIX + name in refused.value.message
        assert repr(value) in refused.value.message or value in refused.value.message.split()
        node.until(lambda: not node.leftovers(box.id + "/"), f"nothing is left: {node.leftovers(box.id + '/')}")


def test_a_bad_annotation_of_a_pod_is_told_to_the_kubelet(cri: Cri) -> None:
    annotations = {f"{PREFIX}scaledown-duration": "soon"}
    with pytest.raises(Refused) as refused, cri.pod(annotations=annotations) as pod:
        pod.container("redis", "localhost/redis:test")
    assert f"{PREFIX}scaledown-duration" in refused.value.message
    assert "'soon'" in refused.value.message


def test_a_bundle_that_is_gone_does_not_stop_the_clean_up(containerd: Containerd) -> None:
    with containerd.container("sleep", "1000", runtime=OURS) as box:
        box.run()
        os.unlink(f"{box.bundle}/config.json")
        assert box.status() == "RUNNING"
    node.until(lambda: not node.leftovers(box.id + "/"), "nothing is left")
