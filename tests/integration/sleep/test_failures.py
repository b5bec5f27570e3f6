"""What goes wrong: the container is alive, or its end is reported with the reason, and its shim lives on."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.integration import node
from tests.integration.containerd import Events
from tests.integration.sleep.helpers import faults, shims
from tests.integration.sleep.helpers.faults import CHECKPOINT, PAGER, RESTORE
from tests.integration.sleep.helpers.stage import REDIS, App, Stage, python

pytestmark = pytest.mark.timeout(60)


def exits(events: Events, app: App) -> list[int]:
    return [event.message.exit_status for event in events.until(app.id, "exit") if event.topic == "exit"]


def remove(images: Path) -> None:
    for image in images.iterdir():
        image.unlink()
    images.rmdir()


def remove_pages(images: Path) -> None:
    (images / "pages-1.img").unlink()


def truncate(images: Path) -> None:
    os.truncate(images / "pages-1.img", 4096)


def overwrite_tree(images: Path) -> None:
    _overwrite(images / "pstree.img", 0)


def overwrite_core(images: Path) -> None:
    _overwrite(images / "core-1.img", 8)


def overwrite_pages(images: Path) -> None:
    _overwrite(images / "pages-1.img", 100_000)


def _overwrite(image: Path, offset: int) -> None:
    size = image.stat().st_size
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * min(64, size - offset))
    assert image.stat().st_size == size


DAMAGES: tuple[Callable[[Path], None], ...] = (
    remove,
    remove_pages,
    truncate,
    overwrite_tree,
    overwrite_core,
    overwrite_pages,
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_image_that_is_damaged_during_sleep_ends_the_container_with_the_reason(
    stage: Stage, damage: Callable[[Path], None]
) -> None:
    app = stage.task(REDIS)
    with stage.client.events() as events:
        app.asleep()
        damage(Path(app.images))
        with pytest.raises((OSError, EOFError)), app.connect() as session:
            session.redis("PING")
        assert app.exit_code() == 137
        assert exits(events, app) == [137]
    row = next(row for row in shims.ps() if row["id"] == app.id)
    assert row["state"] == "STOPPED"
    assert row["restore_errors"] == 1
    assert "damaged" in row["message"] or "CRIU said" in row["message"]
    assert faults.logged(app, "level=error")


def test_the_rest_of_a_pod_goes_on_when_one_container_cannot_be_woken(stage: Stage) -> None:
    pod = stage.pod()
    app, other = stage.add(pod, REDIS), stage.add(pod, python())
    app.asleep()
    other.asleep()
    remove(Path(app.images))
    with pytest.raises((OSError, EOFError)), app.connect() as session:
        session.redis("PING")
    assert app.exit_code() == 137
    assert faults.logged(app, "cannot be restored", "damaged")
    with other.connect() as session:
        assert session.ask("count") == "1 1"
    again = stage.add(pod, REDIS, attempt=1)
    again.asleep()
    with again.connect() as session:
        assert session.redis("PING") == b"PONG"
    other.asleep()


def test_a_disk_that_is_full_keeps_the_container_awake_until_there_is_room(stage: Stage) -> None:
    with faults.small_disk("2m"):
        app = stage.task(REDIS)
        with app.connect() as session:
            session.redis("SET", "a", "b")
            node.until(lambda: app.status.refused_sleeps > 0, "a checkpoint was not even tried")
            assert session.redis("GET", "a") == b"b"
        app.awake()  # between two attempts
        row = shims.row(app.id)
        assert (row["checkpoint_errors"], "the disk has no room for it" in row["message"]) == (0, True)
        assert faults.logged(app, "stays awake", "min-free-bytes")
        assert app.running()
        faults.resize_disk("500m")
        app.asleep(10)
        with app.connect() as session:
            assert session.redis("GET", "a") == b"b"
        assert app.status.restores == 1
        stage.stack.close()


def test_a_criu_that_refuses_keeps_the_container_awake_and_is_asked_again_later(stage: Stage) -> None:
    app = stage.app("cri", python())
    with faults.criu(f"{CHECKPOINT} && exit 1"):
        with app.connect() as session:
            assert session.ask("count") == "1 1"
            node.until(lambda: app.status.checkpoint_errors > 0, "a checkpoint failed")
            assert session.ask("count") == "2 2"
        failed = app.status
        assert "checkpoint failed" in failed.message
        assert failed.checkpoints == 0
        assert app.running()
    app.asleep(20)
    with app.connect() as session:
        assert session.ask("count") == "3 1"


def killed_after(milliseconds: int) -> str:
    if not milliseconds:
        return f"{CHECKPOINT} && kill -KILL $$"
    return f'{CHECKPOINT} && exec timeout --signal KILL {milliseconds / 1000} $criu "$@"'


def tried(app: App) -> bool:
    """Whether there was a checkpoint, however it ended."""
    status = app.status
    return status.checkpoint_errors + status.checkpoints > 0 or app.state == "STOPPED"


@pytest.mark.parametrize("milliseconds", [0, 5])
def test_a_criu_that_is_killed_before_it_reaches_the_application_harms_nobody(stage: Stage, milliseconds: int) -> None:
    app = stage.task(python(8000, 20))
    with faults.criu(killed_after(milliseconds)), app.connect() as session:
        memory = session.ask("memory")
        session.ask("count")
        node.until(lambda: tried(app), "a checkpoint was tried")
        assert session.ask("count") == "2 2"
    app.asleep(20)
    with app.connect() as session:
        assert session.ask("count") == "3 1"
        assert session.ask("memory") == memory
    assert app.running()


# It reaches the application after some 35 ms, and for the next 5 the application's registers, and an instruction in
# its code, are CRIU's own. Killed then, it leaves them to the application, which dies of it: nobody else knows what
# they were. After some 90 ms it has ended the application itself, and dies before it can say so.
@pytest.mark.parametrize("milliseconds", [20, 36, 38, 40, 60, 90])
def test_a_criu_that_is_killed_in_the_middle_of_a_dump_costs_at_most_an_exit_that_is_reported(
    stage: Stage, milliseconds: int
) -> None:
    app = stage.task(python(8000, 20))
    with stage.client.events() as events:
        with faults.criu(killed_after(milliseconds)), app.connect() as session:
            memory = session.ask("memory")
            session.ask("count")
            node.until(lambda: tried(app), "a checkpoint was tried")
            try:
                answer = session.ask("count")
            except (EOFError, ConnectionError):  # not TimeoutError: it must not hang
                answer = ""
        if not answer:
            code = app.exit_code()
            assert code > 128  # a signal
            assert exits(events, app) == [code]
            row = next(row for row in shims.ps() if row["id"] == app.id)
            assert row["state"] == "STOPPED"
            assert "checkpoint" in row["message"]
            return
    assert answer == "2 2"
    app.asleep(20)
    with app.connect() as session:
        assert session.ask("count") == "3 1"
        assert session.ask("memory") == memory
    assert app.running()


FAILING_RESTORES = {
    "the pager does not start": f"{PAGER} && exit 1",
    "the pager dies at once": f'{PAGER} && {{ timeout --signal KILL 0.02 $criu "$@"; exit 1; }}',
    "the first restore fails": f"{RESTORE} && [ ! -e /run/failed ] && touch /run/failed && exit 1",
}


@pytest.mark.parametrize("script", FAILING_RESTORES.values(), ids=FAILING_RESTORES.keys())
def test_a_lazy_restore_that_fails_is_followed_by_an_eager_one(stage: Stage, script: str) -> None:
    Path("/run/failed").unlink(missing_ok=True)
    app = stage.app("cri", python(8000, 20))
    with app.connect() as session:
        memory = session.ask("memory")
    app.asleep()
    with faults.criu(script):
        with app.connect() as session:
            assert session.ask("count") == "1 1"
            assert session.ask("memory") == memory
    assert app.running()
    assert app.status.restore_errors == 0
    app.asleep()
    with app.connect() as session:
        assert session.ask("count") == "2 1"


def test_a_container_that_no_restore_brings_back_is_reported_with_what_criu_said(stage: Stage) -> None:
    app = stage.task(python())
    app.asleep()
    with faults.criu(f"{RESTORE} && exit 1"), app.connect() as session:
        with pytest.raises((OSError, EOFError)):
            session.ask("count")
        assert app.exit_code() == 137
    assert "cannot be restored" in app.status.message
    assert app.status.restore_errors == 1


def large_redis(stage: Stage) -> tuple[App, object]:
    app = stage.task(REDIS, scaledown="3s")  # the digest takes a while
    with app.connect() as session:
        session.redis("DEBUG", "POPULATE", "100000", "key", "1000")
        digest = session.redis("DEBUG", "DIGEST")
    app.asleep()
    return app, digest


def first_pager(app: App) -> int:
    found: list[int] = []

    def look() -> bool:
        found[:] = faults.pagers(app)
        return bool(found)

    node.until(look, "the pager runs", 5)
    return found[0]


@pytest.mark.parametrize("stopped", [False, True])
def test_a_pager_that_dies_never_means_wrong_data(stage: Stage, stopped: bool) -> None:
    app, digest = large_redis(stage)
    with app.connect() as waking:
        pager = first_pager(app)
        if stopped:
            app.awake()
            os.kill(pager, signal.SIGSTOP)
            time.sleep(0.1)
        waking.send_redis(["DEBUG", "DIGEST"])
        os.kill(pager, signal.SIGKILL)
        with suppress(OSError, EOFError):  # it may be connected to a process that has to be killed
            assert waking.redis_reply() == digest
    with app.connect() as session:
        assert session.redis("DBSIZE") == 100000
        assert session.redis("DEBUG", "DIGEST") == digest
    assert app.running()


def status_sockets() -> int:
    return len(os.listdir("/run/zeropod/s")) if os.path.exists("/run/zeropod/s") else 0


@pytest.mark.parametrize("moment", ["awake", "with its pager", "falling asleep", "asleep"])
def test_nothing_is_left_of_a_shim_that_is_killed(stage: Stage, moment: str) -> None:
    sockets = status_sockets()
    app = stage.task(REDIS, scaledown="300ms")
    app.asleep()
    pids: list[int] = []
    with ExitStack() as stack:
        events = stack.enter_context(stage.client.events())
        if moment != "asleep":
            session = stack.enter_context(app.connect())
            assert session.redis("PING") == b"PONG"
            pids.append(app.status.pid)
            if moment == "with its pager" and (pagers := faults.pagers(app)):
                os.kill(pagers[0], signal.SIGSTOP)
                pids += pagers
            if moment == "falling asleep":
                shims.until_state(app.id, "CHECKPOINTING")
        os.kill(faults.shim_pid(app), signal.SIGKILL)
        assert exits(events, app) == [137]
    node.until(lambda: not any(map(node.alive, pids)), "its processes are gone")
    node.until(lambda: not node.leftovers(app.id), f"nothing is left over: {node.leftovers(app.id)}", 5)
    assert status_sockets() <= sockets
    assert node.running("lazy-pages") == []


def test_a_pod_whose_shim_is_killed_asleep_can_be_removed(stage: Stage) -> None:
    pod = stage.pod()
    app, other = stage.add(pod, REDIS), stage.add(pod, python())
    app.asleep()
    other.asleep()
    os.kill(faults.shim_pid(app), signal.SIGKILL)
    for each in (app, other):
        assert each.exit_code() in (137, 255)
    problems = pod.remove()
    assert problems == []
    for name in (app.id, other.id, pod.id):
        assert node.left_over(name) == []
