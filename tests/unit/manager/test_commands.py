"""`zeropod sleep`, `wake` and `why`, against shims behind real sockets."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from tests.unit.manager.fakes import FakeShim, listen

from zeropod import shims
from zeropod.manager.commands import sleep, wake, why
from zeropod.rpc.messages import status_pb2
from zeropod.rpc.messages.status_pb2 import ContainerStatus
from zeropod.rpc.server import Services, unary
from zeropod.rpc.status import Code, RpcError

WEB = ContainerStatus(id="abc1", pod_namespace="default", pod="web", container="nginx", state=status_pb2.STANDBY)


@pytest.fixture
def serve(place: Path) -> Iterator[Callable[[Services], None]]:
    """Serves one shim in a thread of its own, as commands run a loop of theirs."""
    ready, stop, threads, tokens = threading.Event(), trio.Event(), list[threading.Thread](), []

    def start(services: Services) -> None:
        async def run() -> None:
            tokens.append(trio.lowlevel.current_trio_token())
            async with trio.open_nursery() as nursery:
                await listen(place / "1.sock", nursery, services)
                ready.set()
                await stop.wait()
                nursery.cancel_scope.cancel()

        threads.append(threading.Thread(target=trio.run, args=(run,)))
        threads[-1].start()
        assert ready.wait(60)

    yield start
    for token in tokens:
        token.run_sync_soon(stop.set)
    for thread in threads:
        thread.join(60)


Serve = Callable[[Services], None]


def test_a_container_is_put_to_sleep_by_its_name(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeShim(WEB)
    serve(fake.services())
    assert sleep(["default/web/nginx"]) == 0
    assert fake.requests == [status_pb2.SleepRequest(id="abc1")]
    assert capsys.readouterr().out == "default/web/nginx (abc1): STANDBY, as before\n"


def test_a_container_is_woken_by_the_beginning_of_its_id(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeShim(WEB)
    serve(fake.services())
    assert wake(["ab", "abc1"]) == 0
    assert fake.requests == [status_pb2.WakeRequest(id="abc1")] * 2


def test_the_reasons_come_with_what_to_do(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(FakeShim(WEB).services())
    assert why(["abc1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "default/web/nginx (abc1): STANDBY"
    assert lines[1].split(maxsplit=1) == ["exec", "Exec 7 is running."]
    assert lines[2].split() == [">", "End", "it."]


def test_reasons_are_there_for_programs_too(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(FakeShim(WEB).services())
    assert why(["--json", "abc1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["id"], told["state"]) == ("abc1", "STANDBY")
    assert told["reasons"] == [{"kind": "exec", "text": "Exec 7 is running.", "remedy": "End it."}]


def test_a_refusal_is_told_and_the_others_are_asked_all_the_same(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(request: status_pb2.SleepRequest) -> ContainerStatus:
        raise RpcError(Code.FAILED_PRECONDITION, "cannot put it to sleep: it has a terminal")

    methods = FakeShim(WEB).services()[shims.SERVICE]
    serve({shims.SERVICE: {**methods, "Sleep": unary(status_pb2.SleepRequest, refuse)}})
    assert sleep(["nobody", "abc1"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "zeropod sleep: no container nobody; zeropod ps lists them",
        "zeropod sleep: cannot put it to sleep: it has a terminal",
    ]


def test_who_may_not_look_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> list[str]:
        raise PermissionError

    monkeypatch.setattr(shims, "sockets", refuse)
    assert wake(["x"]) == 1
    assert "sudo" in capsys.readouterr().err
