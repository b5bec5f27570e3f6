"""A container that leaves at its stop, and goes on in another pod: asleep or awake; and every way in which it does not.

The export is taken by a container on the same node, as it is by one elsewhere once its files are there.
"""

import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from tests.integration import cri, node
from tests.integration.exports import manager
from tests.integration.exports.manager import Manager
from tests.integration.sleep.helpers import server
from tests.integration.sleep.helpers.stage import REDIS, App, Kind, Stage, python
from tests.integration.standby.helpers.checker import checker

from zeropod import paths
from zeropod.rpc.messages import node_pb2
from zeropod.runtime.exports import decision
from zeropod.runtime.exports.decision import Decision

pytestmark = pytest.mark.timeout(180)

MOVES = {"keep-on-restart": "true", "migrate": "python,redis", "live-migrate": "python,redis"}
IN_ORDER = 143
"""What the applications exit with at SIGTERM."""


@pytest.fixture
def asked() -> Iterator[Manager]:
    with manager.running(Manager()) as running:
        yield running


@dataclass
class Leaving:
    """An application that is being stopped, and the pod that is to take it."""

    app: App
    target: cri.Pod
    manager: Manager
    key: str
    thread: threading.Thread = field(init=False)

    def stop(self, grace: int = 60) -> None:
        assert isinstance(self.app.container, cri.Container)
        self.thread = threading.Thread(target=self.app.container.stop, args=(grace,))
        self.thread.start()

    def exported(self) -> None:
        asked = self.manager
        node.until(lambda: bool(asked.evacuated) or len(asked.prepared) > 1, "its export is told to the manager", 30)
        assert asked.evacuated, asked.prepared[-1].obstacle

    def elsewhere(self) -> None:
        """Have the target take it through the tunnel, as on another node."""
        uid = self.target.config.metadata.uid
        self.manager.restores[uid] = node_pb2.RestoreResponse(found=True, migration=f"default/{self.key}", key=self.key)

    def taken(self) -> App:
        container = self.target.container(self.app.kind.name, self.app.kind.image, args=self.app.kind.args)
        return App(self.app.kind, container)

    def ended(self) -> int:
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.app.exit_code()

    @property
    def left(self) -> bool:
        return (paths.EXPORTS / self.key).exists()


def begin(stage: Stage, asked: Manager, kind: Kind, scaledown: str = "1h", **annotations: str) -> Leaving:
    uid = str(uuid.uuid4())
    settings = {**MOVES, **{key.replace("_", "-"): value for key, value in annotations.items()}}
    app = stage.app("cri", kind, scaledown, settings)
    target = stage.pod(scaledown, settings, uid=uid)
    key = f"{uid}.{kind.name}"
    asked.prepares = node_pb2.PrepareEvacResponse(go=True, key=key)
    return Leaving(app, target, asked, key)


def test_redis_goes_on_awake_with_all_its_data(stage: Stage, asked: Manager) -> None:
    leaving = begin(stage, asked, REDIS)
    with leaving.app.connect() as session:
        session.socket.settimeout(60)
        session.redis("DEBUG", "POPULATE", "600000", "key", "100")
        digest = session.redis("DEBUG", "DIGEST")
    gaps, ends = [0.0], threading.Event()
    last = time.monotonic()

    def poll() -> None:
        nonlocal last
        while not ends.is_set():
            try:
                with leaving.app.connect() as session:
                    session.socket.settimeout(0.5)
                    while not ends.is_set():
                        assert session.redis("GET", "key:7") is not None
                        gaps.append(time.monotonic() - last)
                        last = time.monotonic()
                        time.sleep(0.01)
            except (OSError, EOFError):
                time.sleep(0.002)

    client = threading.Thread(target=poll)
    client.start()
    time.sleep(0.5)
    leaving.stop()
    leaving.exported()
    ends.set()
    client.join()
    request = leaving.manager.prepared[0]
    assert (request.asleep, request.offline, request.live) == (False, True, True)
    app = leaving.taken()
    with app.connect() as session:
        assert session.redis("GET", "key:7") is not None
        silent = time.monotonic() - last
        session.socket.settimeout(60)
        assert session.redis("DBSIZE") == 600000
        assert session.redis("DEBUG", "DIGEST") == digest
    evacuated = leaving.manager.evacuated[0]
    longest = sorted(gaps)[-8:]
    print(f"without an answer: {silent * 1000:.0f} ms, before that {[round(gap * 1000) for gap in longest]} ms at most")
    paused = time.time() - evacuated.paused_at.ToNanoseconds() / 1e9
    print(f"frozen for good {(paused - time.monotonic() + last + silent) * 1000:.0f} ms before the first answer")
    print(f"image {evacuated.image_bytes >> 10} KiB, stored {evacuated.stored_bytes >> 20} MiB")
    assert app.state == "RUNNING"
    leaving.manager.evacuates = node_pb2.EvacResponse(outcome=node_pb2.GIVEN)
    leaving.manager.decided.set()
    assert leaving.ended() == 0
    assert not leaving.left


@pytest.mark.parametrize("megabytes", [2, 60])
def test_what_sleeps_goes_on_asleep(stage: Stage, asked: Manager, megabytes: int) -> None:
    leaving = begin(stage, asked, python(8000, megabytes), scaledown="300ms")
    with leaving.app.connect() as session:
        assert session.ask("count") == "1 1"
    leaving.app.standby()
    leaving.stop()
    leaving.exported()
    assert leaving.manager.prepared[0].asleep
    app = leaving.taken()
    app.standby()
    leaving.manager.evacuates = node_pb2.EvacResponse(outcome=node_pb2.GIVEN)
    leaving.manager.decided.set()
    assert leaving.ended() == 0
    with app.connect() as session:
        assert session.ask("memory") == server.memory(8000, megabytes)
        assert session.ask("count") == "2 1"


def test_every_page_is_right_after_each_of_three_moves_awake(stage: Stage, asked: Manager) -> None:
    kind = checker(40)
    leaving = begin(stage, asked, kind)
    for number in range(1, 4):
        with leaving.app.connect() as session:
            assert session.ask("next") == str(number)
        asked.evacuated.clear()
        asked.prepared.clear()
        asked.decided.clear()
        leaving.stop()
        leaving.exported()
        app = leaving.taken()
        asked.evacuates = node_pb2.EvacResponse(outcome=node_pb2.GIVEN)
        asked.decided.set()
        assert leaving.ended() == 0
        uid = str(uuid.uuid4())
        key = f"{uid}.{kind.name}"
        asked.prepares = node_pb2.PrepareEvacResponse(go=True, key=key)
        leaving = Leaving(app, stage.pod("1h", MOVES, uid=uid), asked, key)


@pytest.mark.parametrize("asleep", [True, False])
def test_what_goes_through_the_tunnel_is_right_and_all_of_it_comes(stage: Stage, asked: Manager, asleep: bool) -> None:
    kind = checker(60)
    leaving = begin(stage, asked, kind, "300ms" if asleep else "1h", keep_on_restart="false")
    leaving.elsewhere()
    with leaving.app.connect() as session:
        assert session.ask("next") == "1"
    if asleep:
        leaving.app.standby()
    leaving.stop()
    leaving.exported()
    app = leaving.taken()
    if asleep:
        app.standby()
    node.until(lambda: bool(asked.finished), "the manager hears of it")
    assert asked.finished[0].phase == "Completed"
    with app.connect() as session:
        assert session.ask("next") == "2"
    asked.evacuates = node_pb2.EvacResponse(outcome=node_pb2.GIVEN)
    asked.decided.set()
    assert leaving.ended() == 0
    node.until(lambda: asked.finished[-1].is_final, "all of it has come", 30)
    last = asked.finished[-1]
    print(f"{last.bytes_received >> 10} KiB were sent of {asked.evacuated[0].stored_bytes >> 10} KiB stored")
    assert last.phase == "Completed"
    assert last.pages_to_come == 0
    assert not (paths.container("k8s.io", app.id) / "incoming").exists()
    with app.connect() as session:
        assert session.ask("next") == "3"
    if asleep:
        app.standby()
        with app.connect() as session:
            assert session.ask("next") == "4"


def test_what_was_taken_back_before_the_commit_starts_anew_there(stage: Stage, asked: Manager) -> None:
    leaving = begin(stage, asked, python(8000, 30), keep_on_restart="false")
    leaving.elsewhere()
    leaving.stop()
    leaving.exported()
    assert decision.decide(paths.EXPORTS / leaving.key, Decision.WITHDRAWN) is Decision.WITHDRAWN
    app = leaving.taken().ready()
    assert "its source has taken it back" in app.status.message
    assert asked.finished[-1].phase == "Failed"
    with app.connect() as session:
        assert session.ask("count") == "1 1"
    asked.decided.set()
    assert leaving.ended() == IN_ORDER


def test_what_the_manager_has_no_place_for_ends_in_order(stage: Stage, asked: Manager) -> None:
    leaving = begin(stage, asked, python())
    asked.prepares = node_pb2.PrepareEvacResponse(why="nothing is to come in its place")
    leaving.stop()
    assert leaving.ended() == IN_ORDER
    assert not asked.evacuated


@pytest.mark.parametrize("asleep", [False, True])
def test_what_is_not_taken_comes_back_and_ends_in_order(stage: Stage, asked: Manager, asleep: bool) -> None:
    leaving = begin(stage, asked, python(8000, 30), scaledown="300ms" if asleep else "1h")
    if asleep:
        leaving.app.standby()
    leaving.stop()
    leaving.exported()
    asked.evacuates = node_pb2.EvacResponse(outcome=node_pb2.WITHDRAW, why="its target is gone")
    asked.decided.set()
    assert leaving.ended() == IN_ORDER
    assert not leaving.left


def test_what_was_given_never_comes_back_whatever_the_manager_says(stage: Stage, asked: Manager) -> None:
    leaving = begin(stage, asked, python(8000, 30))
    leaving.stop()
    leaving.exported()
    assert decision.decide(paths.EXPORTS / leaving.key, Decision.GIVEN) is Decision.GIVEN
    asked.evacuates = node_pb2.EvacResponse(outcome=node_pb2.WITHDRAW, why="it believes that it was not")
    asked.decided.set()
    assert leaving.ended() == 0


def test_what_is_decided_too_late_comes_back_and_ends_in_order(stage: Stage, asked: Manager) -> None:
    leaving = begin(stage, asked, python(8000, 30))
    asked.prepares.deadline.FromNanoseconds(time.time_ns() + 4 * 10**9)
    leaving.stop()
    leaving.exported()
    assert leaving.ended() == IN_ORDER
    assert not leaving.left


def test_a_kill_ends_it_at_once_and_nothing_may_come_of_the_export(stage: Stage, asked: Manager) -> None:
    leaving = begin(stage, asked, python(8000, 30))
    leaving.stop(grace=4)
    leaving.exported()
    assert leaving.ended() == 137
    assert not leaving.left


def test_what_criu_would_lose_ends_here_in_order_and_the_manager_knows_why(stage: Stage, asked: Manager) -> None:
    code = "import os\nkeep = os.eventfd(0, os.EFD_SEMAPHORE)\n" + server.PROGRAM
    leaving = begin(stage, asked, Kind("python", 8000, ("-c", code, "8000", "0")))
    leaving.stop()
    assert leaving.ended() == IN_ORDER
    assert not asked.evacuated
    assert "an eventfd counts as a semaphore" in asked.prepared[-1].obstacle


def test_what_is_kept_for_later_ends_and_its_export_stays(stage: Stage, asked: Manager) -> None:
    leaving = begin(stage, asked, python(8000, 30))
    asked.prepares.park = True
    asked.evacuates = node_pb2.EvacResponse(outcome=node_pb2.PARKED)
    asked.decided.set()
    leaving.stop()
    assert leaving.ended() == 0
    assert leaving.left
    app = leaving.taken()
    with app.connect() as session:
        assert session.ask("memory") == server.memory(8000, 30)
