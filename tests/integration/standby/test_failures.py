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
from tests.integration.patience import patient
from tests.integration.sleep.helpers import faults, server, shims
from tests.integration.sleep.helpers.faults import CHECKPOINT, RESTORE
from tests.integration.sleep.helpers.stage import ASLEEP, REDIS, App, Stage, python

pytestmark = pytest.mark.timeout(60)

MEGABYTES = 40
FAILED = Path("/run/failed")


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


@pytest.mark.parametrize("times", [1, 3, 20])
def test_a_pager_that_is_killed_in_standby_loses_nothing(stage: Stage, times: int) -> None:
    app = stage.app("cri", python(8000, MEGABYTES))
    app.standby()
    for _ in range(times):
        for each in faults.pagers(app):  # none once it has gone to the disk, where it needs none
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        time.sleep(0.05)
    assert app.state in ASLEEP
    memory_is_right(app, 1)
    app.standby()
    memory_is_right(app, 2)


@pytest.mark.parametrize("milliseconds", [0, 1, 5, 20, 100])
def test_a_pager_that_is_killed_while_it_brings_in_memory_loses_nothing(stage: Stage, milliseconds: int) -> None:
    app = stage.app("cri", python(8000, MEGABYTES))
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


@pytest.mark.parametrize("standby", [True, False], ids=["STANDBY", "COLD"])
def test_a_pager_that_is_killed_while_criu_restores_loses_nothing(stage: Stage, standby: bool) -> None:
    """What CRIU restores touches its memory before it runs. CRIU would wait for it, and we for CRIU."""
    app = stage.app("cri", python(8000, MEGABYTES), annotations={} if standby else {"standby": "false"})
    cgroup = faults.freezer(app.status.pid)
    with app.connect() as session:
        if not standby:
            app.cold()
            session.send(b"count\n")
        kill_a_pager_that_has_just_been_handed_a_process(app, cgroup)
        if standby:
            session.send(b"count\n")
        assert session.line() == "1 1"
    app.asleep()
    memory_is_right(app, 2)
    assert app.running()


def kill_a_pager_that_has_just_been_handed_a_process(app: App, cgroup: Path) -> None:
    deadline = time.monotonic() + patient(20)
    while not (pids := [pid for pid in faults.pagers(app) if faults.serves(pid)]):  # no sleep: it takes milliseconds
        assert time.monotonic() < deadline, "no pager has been handed a process"
    os.kill(pids[0], signal.SIGSTOP)
    node.until(lambda: faults.waits_for_memory(cgroup), "a process waits for its memory")
    os.kill(pids[0], signal.SIGKILL)


def test_a_pager_that_is_stopped_and_killed_during_the_wake_is_replaced(stage: Stage) -> None:
    app = stage.app("cri", python(8000, MEGABYTES))
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


def remove(images: Path) -> None:
    for image in images.iterdir():
        image.unlink()
    images.rmdir()


def remove_pages(images: Path) -> None:
    (images / "pages-1.img").unlink()


def truncate(images: Path) -> None:
    os.truncate(images / "pages-1.img", 4096)


def overwrite(images: Path) -> None:
    pages = images / "pages-1.img"
    with pages.open("r+b") as file:
        for offset in range(0, pages.stat().st_size, 64 << 10):
            file.seek(offset)
            file.write(b"\xa5" * 64)


DAMAGES: tuple[Callable[[Path], None], ...] = (remove, remove_pages, truncate, overwrite)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_image_never_means_wrong_data(stage: Stage, damage: Callable[[Path], None]) -> None:
    app = stage.task(python(8000, MEGABYTES))
    with stage.client.events() as events:
        app.standby()
        damage(Path(app.images))
        try:
            memory_is_right(app, 1)
        except (OSError, EOFError):
            assert app.exit_code() == 137
            assert exits(events, app) == [137]
            row = shims.row(app.id)
            assert (row["state"], row["restore_errors"]) == ("STOPPED", 1)
            assert "damaged" in row["message"] or "CRIU said" in row["message"]
            assert faults.logged(app, "level=error")
        else:
            app.asleep()
            memory_is_right(app, 2)


def test_the_rest_of_a_pod_goes_on_when_one_image_is_damaged(stage: Stage) -> None:
    pod = stage.pod()
    app, other = stage.add(pod, python(8000, MEGABYTES)), stage.add(pod, REDIS)
    app.standby()
    other.standby()
    truncate(Path(app.images))
    with pytest.raises((OSError, EOFError)):
        memory_is_right(app, 1)
    assert app.exit_code() == 137
    assert other.state == "STANDBY"
    with other.connect() as session:
        assert session.redis("PING") == b"PONG"


REFUSALS = {
    "refuses": f"{RESTORE} && [ ! -e {FAILED} ] && touch {FAILED} && exit 1",
    "is killed at once": f"{RESTORE} && [ ! -e {FAILED} ] && touch {FAILED} && kill -KILL $$",
    "is killed soon": f'{RESTORE} && [ ! -e {FAILED} ] && touch {FAILED} && exec timeout --signal KILL 0.02 $criu "$@"',
    "is killed later": f"{RESTORE} && [ ! -e {FAILED} ] && touch {FAILED} && "
    'exec timeout --signal KILL 0.05 $criu "$@"',
}


@pytest.mark.parametrize("script", REFUSALS.values(), ids=REFUSALS.keys())
def test_where_the_lazy_restore_fails_it_sleeps_on_disk_and_serves(stage: Stage, script: str) -> None:
    FAILED.unlink(missing_ok=True)
    app = stage.app("cri", python(8000, MEGABYTES))
    with app.connect() as session:
        assert session.ask("count") == "1 1"
        with faults.criu(script):
            app.asleep()
        assert FAILED.exists()
        assert session.ask("count") == "2 2"
        memory_is_right(app, 3)
        assert app.standby(20).checkpoint_errors == 0
        assert session.ask("count") == "4 3"


def test_a_criu_that_restores_nothing_any_more_ends_it_with_its_words(stage: Stage) -> None:
    app = stage.task(python())
    with faults.criu(f"{RESTORE} && exit 1"):
        app.cold()
        with pytest.raises((OSError, EOFError)), app.connect() as session:
            session.ask("count")
        assert app.exit_code() == 137
    assert "cannot be restored" in app.status.message
    assert app.status.restore_errors == 1


def killed_at(call: str, number: int) -> str:
    """The lines for a CRIU that is killed as it makes this system call for this time while it dumps.

    Never by a clock, which would meet the millisecond now and then in which CRIU has the application's registers.
    """
    return (
        f"{CHECKPOINT} && exec strace -qq -o /dev/null -e trace={call} "
        f'-e inject={call}:signal=KILL:when={number} $criu "$@"'
    )


def was_tried(app: App) -> bool:
    return app.status.checkpoint_errors + app.status.checkpoints > 0


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
def test_a_criu_that_is_killed_in_the_middle_of_a_dump_harms_nobody(stage: Stage, call: str, number: int) -> None:
    app = stage.task(python(8000, MEGABYTES))
    with app.connect() as session:
        session.ask("count")
        with faults.criu(killed_at(call, number)):
            node.until(lambda: was_tried(app), "a checkpoint was tried")
            assert app.status.checkpoints == 0
            assert session.ask("count") == "2 2"
        app.standby(25)
        assert session.ask("count") == "3 3"
    memory_is_right(app, 4)


def test_a_criu_that_is_killed_while_it_has_the_registers_is_reported(stage: Stage) -> None:
    """Nobody can give them back. Whether this call is one of those few milliseconds depends on the kernel."""
    app = stage.task(python(8000, MEGABYTES))
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
        node.until(FAILED.exists, "it has happened")
        assert session.ask("count") == "2 2"
        app.standby(30)
        assert session.ask("count") == "3 3"


def test_a_disk_that_is_full_keeps_it_awake_until_there_is_room(stage: Stage) -> None:
    with faults.small_disk("2m"):
        app = stage.task(REDIS)
        with app.connect() as session:
            session.redis("SET", "a", "b")
            node.until(lambda: app.status.refused_sleeps > 0, "a checkpoint was not even tried")
            assert session.redis("GET", "a") == b"b"
            app.awake()  # between two attempts
            assert "the disk has no room for it" in shims.row(app.id)["message"]
            faults.resize_disk("500m")
            app.standby(20)
            assert session.redis("GET", "a") == b"b"
        stage.stack.close()


def test_a_disk_that_fills_up_in_standby_does_no_harm(stage: Stage) -> None:
    with faults.small_disk("600m"):
        app = stage.task(python(8000, MEGABYTES))
        app.standby()
        with suppress(OSError), open(Path(faults.STORE, "filler"), "wb") as filler:
            while True:
                filler.write(bytes(1 << 20))
        memory_is_right(app, 1)
        node.until(lambda: app.status.refused_sleeps > 0, "a checkpoint was not even tried")
        os.unlink(Path(faults.STORE, "filler"))
        app.standby(25)
        memory_is_right(app, 2)
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


MOMENTS = ("in standby", "falling asleep", "waking up", "awake")


@pytest.mark.parametrize("moment", MOMENTS)
def test_nothing_is_left_of_a_shim_that_is_killed(stage: Stage, moment: str) -> None:
    app = stage.task(python(8000, MEGABYTES))
    pids = {app.standby().pid, pager(app)}
    with ExitStack() as stack:
        events = stack.enter_context(stage.client.events())
        if moment != "in standby":
            session = stack.enter_context(app.connect())
            session.send(b"memory\n")
            if moment != "waking up":
                session.line()
                pids.add(app.status.pid)
            if moment == "falling asleep":
                shims.until_state(app.id, "CHECKPOINTING")
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
