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
from tests.integration.patience import patient
from tests.integration.sleep.helpers import faults, server, shims
from tests.integration.sleep.helpers.faults import CHECKPOINT, PAGER, RESTORE
from tests.integration.sleep.helpers.stage import ASLEEP, REDIS, App, Stage, python

pytestmark = pytest.mark.timeout(60)

FAILED = Path("/run/failed")


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


def test_where_the_disk_is_full_it_stays_in_standby(stage: Stage) -> None:
    with faults.small_disk("2m"):
        app = stage.task(REDIS)
        for _ in range(2):
            with app.connect() as session:
                session.redis("SET", "a", "b")
            app.standby()
            node.until(lambda: app.status.refused_sleeps > 0, "a checkpoint was not even tried")
            app.standby()
            row = shims.row(app.id)
            assert (row["checkpoint_errors"], "the disk has too little space for it" in row["why"]) == (0, True)
            with app.connect() as session:
                assert session.redis("GET", "a") == b"b"
        assert faults.logged(app, "stays in STANDBY", "min-free-bytes")
        assert app.running()
        stage.stack.close()


def test_where_criu_refuses_it_sleeps_in_standby_from_then_on(stage: Stage) -> None:
    app = stage.app("cri", python())
    with faults.criu(f"{CHECKPOINT} && exit 1"):
        with app.connect() as session:
            assert session.ask("count") == "1 1"
            node.until(lambda: app.status.checkpoint_errors > 0, "a checkpoint failed")
            assert session.ask("count") == "2 2"
        failed = app.status
        assert "checkpoint failed" in failed.message
        assert failed.cold_sleeps == 0
        assert app.running()
    pid = app.standby(20).pid
    with app.connect() as session:
        assert session.ask("count") == "3 1"
    assert app.status.pid == pid


def killed_at(call: str, number: int) -> str:
    """The lines for a CRIU that is killed as it makes this system call for this time while it dumps.

    Never by a clock, which would meet the millisecond now and then in which CRIU has the application's registers.
    """
    return (
        f"{CHECKPOINT} && exec strace -qq -o /dev/null -e trace={call} "
        f'-e inject={call}:signal=KILL:when={number} $criu "$@"'
    )


def was_tried(app: App) -> bool:
    return app.status.checkpoint_errors + app.status.cold_sleeps > 0


@pytest.mark.parametrize(
    ("call", "number"),
    [
        pytest.param("openat", 1, id="as it begins"),
        pytest.param("alarm", 1, id="before it freezes"),
        pytest.param("alarm", 2, id="all is stopped"),
        pytest.param("sendto", 1, id="its code is in"),
        pytest.param("splice", 1, id="first pages"),
        pytest.param("splice", 20, id="later pages"),
    ],
)
def test_a_criu_that_is_killed_in_the_middle_of_a_dump_harms_nothing(stage: Stage, call: str, number: int) -> None:
    app = stage.task(python(8000, 20))
    with app.connect() as session:
        session.ask("count")
        with faults.criu(killed_at(call, number)):
            node.until(lambda: was_tried(app), "a checkpoint was tried")
            assert app.status.cold_sleeps == 0
            assert session.ask("count") == "2 2"
        app.standby(25)  # COLD is not tried again so soon
        assert session.ask("count") == "3 3"
        assert session.ask("memory") == server.memory(8000, 20)


def test_a_criu_that_is_killed_while_it_has_the_registers_is_reported(stage: Stage) -> None:
    """Nobody can give them back. Whether this call is one of those few milliseconds depends on the kernel."""
    app = stage.task(python(8000, 20))
    with app.connect() as session, faults.criu(killed_at("ptrace", 70)):
        session.ask("count")
        node.until(lambda: "checkpoint" in app.status.message and "failed" in app.status.message, "that is said")
        try:
            assert session.ask("count") == "2 2"
        except (EOFError, OSError):
            assert app.exit_code() in {128 + number for number in (signal.SIGTRAP, signal.SIGSEGV, signal.SIGKILL)}


@pytest.mark.parametrize("moment", [CHECKPOINT, RESTORE], ids=["dump", "restore"])
def test_a_criu_that_dies_and_leaves_a_child_with_its_socket_does_not_hold_it_up(stage: Stage, moment: str) -> None:
    """CRIU has such children for moments; runc waits for the end of the socket, which is the child's as well."""
    FAILED.unlink(missing_ok=True)
    app = stage.app("cri", python())
    orphan = f"{moment} && [ ! -e {FAILED} ] && touch {FAILED} && {{ sleep 300 & kill -KILL $$; }}"
    with app.connect() as session, faults.criu(orphan):
        assert session.ask("count") == "1 1"
        if moment == RESTORE:
            app.cold()
        else:
            node.until(FAILED.exists, "it has happened")
        assert session.ask("count") == "2 2"
        assert FAILED.exists()
        shims.until_state(app.id, ASLEEP, 30)
        assert session.ask("count") == "3 3"


def test_a_pager_that_is_killed_while_criu_restores_loses_nothing(stage: Stage) -> None:
    """What CRIU restores touches its memory before it runs. CRIU would wait for it, and we for CRIU."""
    app = stage.app("cri", python(8000, 20))
    cgroup = faults.freezer(app.status.pid)
    with app.connect() as session:
        app.cold()
        session.send(b"count\n")
        kill_a_pager_that_has_just_been_handed_a_process(app, cgroup)
        assert session.line() == "1 1"
    app.asleep()
    with app.connect() as session:
        assert session.ask("count") == "2 1"
        assert session.ask("memory") == server.memory(8000, 20)
    assert app.running()


def kill_a_pager_that_has_just_been_handed_a_process(app: App, cgroup: Path) -> None:
    deadline = time.monotonic() + patient(20)
    while not (pids := [pid for pid in faults.pagers(app) if faults.serves(pid)]):  # no sleep: it takes milliseconds
        assert time.monotonic() < deadline, "no pager has been handed a process"
    os.kill(pids[0], signal.SIGSTOP)
    node.until(lambda: faults.waits_for_memory(cgroup), "a process waits for its memory")
    os.kill(pids[0], signal.SIGKILL)


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
