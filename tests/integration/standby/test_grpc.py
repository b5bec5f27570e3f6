"""A bidirectional stream of gRPC, with HTTP/2's own frames and timers, through many sleeps."""

import queue
from collections.abc import Iterator
from pathlib import Path

import grpc  # type: ignore[import-untyped, unused-ignore]
import pytest
from tests.integration.patience import patient
from tests.integration.sleep.helpers.stage import App, Kind, Stage

pytestmark = pytest.mark.timeout(60)

SITE = Path(grpc.__file__).parents[1]
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
"""The node's, since gRPC needs more of them than the image's Python; it is the same Debian."""
CYCLES = 10

SERVER = r"""
import sys
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, "/site")
import grpc

def chat(requests, context):
    for number, request in enumerate(requests, 1):
        yield b"%d %s" % (number, request)

methods = {"Chat": grpc.stream_stream_rpc_method_handler(chat)}
server = grpc.server(ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
server.add_insecure_port("[::]:50051")
server.start()
server.wait_for_termination()
"""
KIND = Kind("python", 50051, ("-c", SERVER))


def streaming(stage: Stage) -> App:
    mounts = {"/site": str(SITE), LIBRARIES: LIBRARIES}
    return App(KIND, stage.pod().container("python", KIND.image, args=KIND.args, mounts=mounts))


def requests(source: "queue.SimpleQueue[bytes | None]") -> Iterator[bytes]:
    while (request := source.get()) is not None:
        yield request


def test_a_stream_of_grpc_goes_on_through_ten_cycles(stage: Stage) -> None:
    app = streaming(stage)
    with grpc.insecure_channel(f"{app.address}:{KIND.port}") as channel:
        grpc.channel_ready_future(channel).result(patient(15))
        source: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        answers = channel.stream_stream("/test.Echo/Chat")(requests(source), timeout=patient(50))
        for cycle in range(1, CYCLES + 1):
            source.put(b"hello")
            assert next(answers) == b"%d hello" % cycle
            app.standby()
        assert app.status.restores >= CYCLES - 1  # its own timers may wake it, too
        source.put(None)
        assert list(answers) == []
