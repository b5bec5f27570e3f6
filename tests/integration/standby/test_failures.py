"""What goes wrong in standby or on the way there: right data, or an end that is reported with its reason."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.integration import node
from tests.integration.containerd import Events
from tests.integration.sleep.helpers import faults, server, shims
from tests.integration.sleep.helpers.stage import ASLEEP, REDIS, App, Stage, python
from tests.integration.standby.helpers.looks import resident

from zeropod import paths

pytestmark = pytest.mark.timeout(60)

MEGABYTES = 40
STORE = {"standby-memory": "store"}


def memory_is_right(app: App, count: int) -> None:
    with app.connect() as session:
        assert session.ask("count") == f"{count} 1"
        assert session.ask("memory") == server.memory(app.kind.port, MEGABYTES)


def exits(events: Events, app: App) -> list[int]:
    return [event.message.exit_status for event in events.until(app.id, "exit") if event.topic == "exit"]


def pager(app: App) -> int:
    found: list[int] = []

    def look() -> bool:
        found[:] = faults.pagers(app)
        return bool(found)

    node.until(look, "a pager has its image", 5)
    return found[0]


@pytest.mark.parametrize("times", [1, 5])
def test_a_pager_that_is_killed_in_standby_loses_nothing(stage: Stage, times: int) -> None:
    app = stage.app("cri", python(8000, MEGABYTES), annotations=STORE)
    app.standby()
    for _ in range(times):
        for each in faults.pagers(app):  # none before the first move has begun
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        time.sleep(0.05)
    assert app.state in ASLEEP
    memory_is_right(app, 1)
    app.standby()
    memory_is_right(app, 2)


@pytest.mark.parametrize("milliseconds", [0, 5, 50])
def test_a_pager_that_is_killed_while_it_brings_in_memory_loses_nothing(stage: Stage, milliseconds: int) -> None:
    app = stage.app("cri", python(8000, MEGABYTES), annotations=STORE)
    app.standby()
    killed = pager(app)
    with app.connect() as session:
        session.send(b"memory\ncount\n")
        time.sleep(milliseconds / 1000)
        with suppress(ProcessLookupError):
            os.kill(killed, signal.SIGKILL)
        assert session.line() == server.memory(8000, MEGABYTES)
        assert session.line() == "1 1"
    app.standby()
    memory_is_right(app, 2)
    assert app.running()


def test_a_pager_that_is_stopped_and_killed_during_the_wake_is_replaced(stage: Stage) -> None:
    app = stage.app("cri", python(8000, MEGABYTES), annotations=STORE)
    app.standby()
    stuck = pager(app)
    os.kill(stuck, signal.SIGSTOP)
    with app.connect() as session:
        session.send(b"memory\n")
        time.sleep(0.3)
        os.kill(stuck, signal.SIGKILL)
        assert session.line() == server.memory(8000, MEGABYTES)
    app.standby()
    memory_is_right(app, 1)


def truncate(pages: Path) -> None:
    os.truncate(pages, 4096)


def overwrite(pages: Path) -> None:
    with pages.open("r+b") as file:
        for offset in range(0, pages.stat().st_size, 64 << 10):
            file.seek(offset)
            file.write(b"\xa5" * 64)


def remove(pages: Path) -> None:
    pages.unlink()


DAMAGES: tuple[Callable[[Path], None], ...] = (remove, truncate, overwrite)


def damage_store(app: App, damage: Callable[[Path], None]) -> None:
    """Once its memory is there."""
    pid, store = app.status.pid, paths.store(app.namespace, app.id)
    node.until(lambda: resident(pid) < 16 << 20, "its memory is out")
    for pages in store.rglob("pages-*"):
        damage(pages)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_never_means_wrong_data(stage: Stage, damage: Callable[[Path], None]) -> None:
    app = stage.task(python(8000, MEGABYTES), annotations=STORE)
    with stage.client.events() as events:
        app.standby()
        damage_store(app, damage)
        try:
            memory_is_right(app, 1)
        except (OSError, EOFError):
            assert app.exit_code() == 137
            assert exits(events, app) == [137]
            row = shims.row(app.id)
            assert row["state"] == "STOPPED"
            assert "has lost a part of its memory" in row["message"]
            assert faults.logged(app, "level=error")
        else:
            assert damage is remove
            app.standby()
            memory_is_right(app, 2)


def test_the_rest_of_a_pod_goes_on_when_one_has_lost_its_memory(stage: Stage) -> None:
    pod = stage.pod(annotations=STORE)
    app, other = stage.add(pod, python(8000, MEGABYTES)), stage.add(pod, REDIS)
    app.standby()
    other.standby()
    damage_store(app, truncate)
    with pytest.raises((OSError, EOFError)):
        memory_is_right(app, 1)
    assert app.exit_code() == 137
    assert other.state == "STANDBY"
    with other.connect() as session:
        assert session.redis("PING") == b"PONG"


def test_a_criu_that_fails_does_not_matter(stage: Stage) -> None:
    app = stage.app("cri", python())
    with faults.criu("exit 1"):
        for cycle in range(1, 3):
            app.standby()
            with app.connect() as session:
                assert session.ask("count") == f"{cycle} 1"
        assert app.status.checkpoint_errors == 0


def test_where_the_disk_is_full_memory_stays_until_there_is_room(stage: Stage) -> None:
    with faults.small_disk("2m"):
        app = stage.task(python(8000, MEGABYTES), annotations=STORE)
        pid = app.standby().pid
        node.until(lambda: faults.logged(app, "its memory stays", "min-free-bytes"), "it is said that there is no room")
        assert resident(pid) > MEGABYTES << 20
        memory_is_right(app, 1)
        faults.resize_disk("500m")
        app.standby()
        node.until(lambda: resident(pid) < 16 << 20, "its memory is out")
        memory_is_right(app, 2)
        assert app.status.checkpoint_errors == 0
        stage.stack.close()


def test_a_disk_that_fills_up_in_standby_does_no_harm(stage: Stage) -> None:
    with faults.small_disk("600m"):
        app = stage.task(python(8000, MEGABYTES), annotations=STORE)
        pid = app.standby().pid
        node.until(lambda: resident(pid) < 16 << 20, "its memory is out")
        with suppress(OSError), open(Path(faults.STORE, "filler"), "wb") as filler:
            while True:
                filler.write(bytes(1 << 20))
        for cycle in range(1, 3):
            memory_is_right(app, cycle)
            app.standby()
        os.unlink(Path(faults.STORE, "filler"))
        memory_is_right(app, 3)
        stage.stack.close()


def test_a_container_that_does_not_freeze_in_time_stays_awake_and_is_tried_again(stage: Stage) -> None:
    app = stage.app("cri", python())
    with app.connect() as session:
        with faults.unfreezable(app):
            node.until(lambda: app.status.checkpoint_errors > 0, "it was tried", 30)
            assert session.ask("count") == "1 1"
            assert app.status.checkpoints == 0
            assert "freeze" in app.status.message
        app.standby(30)
        assert session.ask("count") == "2 2"


MOMENTS = ("in standby", "as its memory moves out", "waking up", "awake")


@pytest.mark.parametrize("moment", MOMENTS)
def test_nothing_is_left_of_a_shim_that_is_killed(stage: Stage, moment: str) -> None:
    app = stage.task(python(8000, MEGABYTES), annotations=STORE)
    pids = {app.standby().pid, pager(app)}
    with ExitStack() as stack:
        events = stack.enter_context(stage.client.events())
        if moment != "in standby":
            session = stack.enter_context(app.connect())
            session.send(b"memory\n")
            if moment != "waking up":
                session.line()
            if moment == "as its memory moves out":
                app.standby()
        os.kill(faults.shim_pid(app), signal.SIGKILL)
        assert exits(events, app) == [137]
    node.until(lambda: not any(map(node.alive, pids)), "its processes are gone")
    node.until(lambda: not node.leftovers(app.id), "nothing is left over", 5)
    assert faults.pagers(app) == []


def test_a_pod_whose_shim_is_killed_in_standby_can_be_removed(stage: Stage) -> None:
    pod = stage.pod()
    apps = [stage.add(pod, REDIS), stage.add(pod, python(8000, MEGABYTES))]
    pids = [app.standby().pid for app in apps]
    os.kill(faults.shim_pid(apps[0]), signal.SIGKILL)
    for app in apps:
        assert app.exit_code() in (137, 255)
    assert pod.remove() == []
    assert not any(map(node.alive, pids))
    for name in (pod.id, *(app.id for app in apps)):
        assert node.left_over(name) == []


def test_the_end_of_a_process_in_standby_is_reported(stage: Stage) -> None:
    app = stage.task(python())
    pid = app.standby().pid
    with stage.client.events() as events:
        os.kill(pid, signal.SIGKILL)
        with suppress(OSError, EOFError), app.connect() as session:  # a frozen process dies when it is thawed
            session.ask("count")
        assert exits(events, app) == [137]
    assert app.exit_code() == 137
