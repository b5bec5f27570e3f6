"""What the shim says about its containers on its second socket."""

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.shim.fakes import World

from zeropod.rpc.messages import status_pb2
from zeropod.runtime import spec
from zeropod.shim import places
from zeropod.shim.bootstrap import Flags
from zeropod.shim.lifecycle import State
from zeropod.shim.sleeper import Sleeper
from zeropod.shim.status import StatusService, describe, status_listener

FLAGS = Flags(namespace="k8s.io", id="web")


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # What the path of a socket has room for is less than pytest's directories take.
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setattr(places, "STATUS_SOCKETS", f"{directory}/s")
        yield f"{directory}/s"


@pytest.mark.parametrize("state", list(State))
async def test_every_state_has_its_name(world: World, state: State) -> None:
    world.container.life.enter(state)
    assert status_pb2.State.Name(describe(world.container).state) == state.name


async def test_a_container_is_described_with_its_pod(world: World) -> None:
    annotations = {
        spec.SANDBOX_NAMESPACE: "default",
        spec.SANDBOX_NAME: "web-0",
        spec.CONTAINER_NAME: "nginx",
        spec.SANDBOX_ID: "s1",
    }
    for key, value in annotations.items():
        world.container.spec = world.container.spec.with_annotation(key, value)
    found = describe(world.container)
    assert (found.id, found.namespace, found.pod_namespace) == ("web", "k8s.io", "default")
    assert (found.pod, found.container, found.sandbox) == ("web-0", "nginx", "s1")
    assert found.since.ToNanoseconds() == world.container.life.since_ns


async def test_a_container_that_sleeps_has_no_pid(world: World, cgroup: Path) -> None:
    await world.container.create()
    (cgroup / "cgroup.procs").write_text(str(world.container.init.pid))
    world.container.life.enter(State.RUNNING)
    assert describe(world.container).pid == world.container.init.pid
    world.container.life.enter(State.COLD)
    assert describe(world.container).pid == 0


async def test_times_are_in_milliseconds(world: World) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    world.container.sleeper = sleeper = Sleeper(world.container, "/proc/self/ns/net", never)  # type: ignore[arg-type]
    sleeper.tally.slept(0.5, 1)
    sleeper.tally.slept(0.125, 2)
    sleeper.tally.woke(0.0625, 3, cold=True)
    sleeper.tally.restore_errors = 1
    found = describe(world.container)
    assert (found.last_checkpoint_ms, found.last_restore_ms) == (125.0, 62.5)
    assert (found.checkpoints, found.restores, found.restore_errors) == (2, 1, 1)
    assert (found.last_checkpoint.ToNanoseconds(), found.last_restore.ToNanoseconds()) == (2, 3)


async def test_one_or_all_containers_are_listed(world: World) -> None:
    service = StatusService(world.host)
    requests = [status_pb2.ListRequest(id=name) for name in ("", "web", "other")]
    assert [len((await service.list(request)).containers) for request in requests] == [1, 1, 0]


def test_the_socket_is_roots_alone_and_goes_with_the_shim(sockets: str) -> None:
    with status_listener(FLAGS):
        (name,) = os.listdir(sockets)
        path = os.path.join(sockets, name)
        assert path.endswith(".sock")
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(sockets).st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
    assert not os.path.exists(path)


def test_the_socket_of_a_dead_shim_is_replaced(sockets: str) -> None:
    with status_listener(FLAGS):
        (path,) = Path(sockets).iterdir()
    path.touch()
    with status_listener(FLAGS), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
