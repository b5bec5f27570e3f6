"""Freezing, with the kernel's part played by the test: whatever happens, nothing stays frozen."""

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from zeropod.kernel import pidfd
from zeropod.rpc.messages import cgroups_v2_pb2
from zeropod.runtime.cgroups import Cgroup, CgroupError, CgroupV1, CgroupV2, FreezeTimeout, SwapState
from zeropod.runtime.cgroups.tasks import Task, culprits, tasks_of


class SlowCgroup(Cgroup):
    """One that is frozen only after `takes` seconds, in a directory whose cgroup.procs the test writes."""

    _awake = frozenset("R")

    def __init__(self, directory: Path, takes: float) -> None:
        super().__init__({"": directory})
        self.takes = takes
        self.log: list[str] = []

    @property
    def directory(self) -> Path:
        return self._directories[""]

    async def _freeze(self) -> None:
        self.log.append("freeze")
        await trio.sleep(self.takes)
        self.log.append("frozen")

    def thaw(self) -> None:
        self.log.append("thaw")

    def kill(self) -> bool:
        return False

    def frozen(self) -> bool:
        return self.log[-1:] == ["frozen"]

    def stats(self) -> cgroups_v2_pb2.Metrics:
        return cgroups_v2_pb2.Metrics()

    def cpu_seconds(self) -> float:
        return 0.0

    def resident_bytes(self) -> int:
        return 0

    def swap_state(self) -> SwapState:
        return SwapState()

    def swap_room(self) -> int | None:
        return None

    def swap_settings(self) -> dict[Path, str]:
        return {}

    def reclaim_to_swap(self, size: int, over: Callable[[], bool]) -> None:
        self.log.append("reclaim to swap")

    def oom_kills(self) -> int:
        return 0

    async def watch_oom(self, notify: Callable[[], None]) -> None:
        notify()


async def test_a_cgroup_that_freezes_in_time_stays_frozen(tmp_path: Path, autojump_clock: object) -> None:
    cgroup = SlowCgroup(tmp_path, takes=1)
    await cgroup.freeze(trio.current_time() + 2)
    assert cgroup.log == ["freeze", "frozen"]


async def test_a_cgroup_that_does_not_is_thawed_and_its_tasks_are_named(tmp_path: Path, autojump_clock: object) -> None:
    cgroup = SlowCgroup(tmp_path, takes=3)
    with pytest.raises(FreezeTimeout, match=f"cgroup {tmp_path} did not freeze in time and was thawed"):
        await cgroup.freeze(trio.current_time() + 2)
    assert cgroup.log == ["freeze", "thaw"]


async def test_cancelling_a_freeze_thaws(tmp_path: Path, autojump_clock: object) -> None:
    cgroup = SlowCgroup(tmp_path, takes=3)
    with trio.move_on_after(1) as scope:
        await cgroup.freeze(trio.current_time() + 2)
    assert scope.cancelled_caught
    assert cgroup.log == ["freeze", "thaw"]


async def test_nobody_freezes_himself(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text(f"1\n{os.getpid()}\n")
    cgroup = SlowCgroup(tmp_path, takes=0)
    with pytest.raises(CgroupError, match="holds this process itself"):
        await cgroup.freeze(trio.current_time() + 2)
    assert cgroup.log == []


async def test_without_a_freezer_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match="the freezer controller of cgroup v1 is not mounted"):
        await CgroupV1({"memory": tmp_path}).freeze(trio.current_time() + 2)


async def test_freezing_a_cgroup_that_is_gone_fails_and_thawing_it_does_not(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for cgroup in (CgroupV1({"freezer": gone}), CgroupV2({"": gone})):
        with pytest.raises(CgroupError, match=r"cannot freeze cgroup .*gone"):
            await cgroup.freeze(trio.current_time() + 2)
        cgroup.thaw()
        assert not cgroup.frozen()
        assert cgroup.pids() == []
        assert cgroup.resident_bytes() == cgroup.oom_kills() == 0


async def test_watching_a_cgroup_that_is_gone_ends_at_once(tmp_path: Path) -> None:
    events: list[str] = []
    gone = tmp_path / "gone"
    for cgroup in (CgroupV1({"memory": gone}), CgroupV1({"freezer": gone}), CgroupV2({"": gone})):
        await cgroup.watch_oom(lambda: events.append("oom"))
    assert events == []


def test_processes_of_sub_cgroups_count_and_strangers_do_not(tmp_path: Path) -> None:
    (tmp_path / "inner" / "most").mkdir(parents=True)
    (tmp_path / "cgroup.procs").write_text("12\n3\n")
    # 0 stands for a process outside our pid namespace.
    (tmp_path / "inner" / "cgroup.procs").write_text("0\n7\n12\n")
    (tmp_path / "inner" / "most" / "cgroup.procs").write_text("")
    assert CgroupV2({"": tmp_path}).pids() == [3, 7, 12]


def test_a_task_is_read_whatever_its_name() -> None:
    found: list[Task] = []

    def named() -> None:
        pidfd.set_name("a) (b)")
        found.extend(task for task in tasks_of([os.getpid()]) if task.tid == threading.get_native_id())

    thread = threading.Thread(target=named)
    thread.start()
    thread.join()
    assert [(task.pid, task.name, task.state, task.waits_in) for task in found] == [(os.getpid(), "a) (b)", "R", "")]
    stuck = Task(41, 42, "a) (b)", "D", "folio_wait_bit_common")
    assert str(stuck) == "task 42 (a) (b)) of process 41: state D in folio_wait_bit_common"


def test_the_tasks_that_did_not_freeze_are_the_awake_and_those_stuck_after_the_thaw() -> None:
    def task(tid: int, state: str) -> Task:
        return Task(1, tid, "worker", state, "")

    before = [task(1, "D"), task(2, "R"), task(3, "D"), task(4, "Z"), task(2, "S"), task(3, "D")]
    after = [task(1, "S"), task(2, "S"), task(3, "D"), task(4, "Z")]
    assert culprits(before, after, frozenset("RS")) == [task(2, "R"), task(3, "D")]


def test_a_timeout_names_a_few_tasks_and_counts_the_rest() -> None:
    error = FreezeTimeout("/c1", [f"task {number}" for number in range(8)])
    assert "task 0; task 1; task 2; task 3; task 4; and 3 more" in str(error)
    assert len(error.unfrozen) == 8
    assert "no task was seen awake" in str(FreezeTimeout("/c1", []))


@pytest.fixture
def process() -> Iterator[int]:
    with subprocess.Popen(["/bin/sleep", "1000"]) as sleep:
        yield sleep.pid
        sleep.kill()


def test_the_kernel_kills_all_of_a_v2_cgroup_at_once(tmp_path: Path, process: int) -> None:
    (tmp_path / "cgroup.procs").write_text(f"{process}\n")
    (tmp_path / "cgroup.kill").touch()
    assert CgroupV2({"": tmp_path}).kill()
    assert (tmp_path / "cgroup.kill").read_text() == "1"
    assert os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, "no number was used"


def test_an_empty_cgroup_and_one_that_is_gone_have_nothing_to_kill(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").touch()
    assert not CgroupV2({"": tmp_path}).kill()
    assert not CgroupV2({"": tmp_path / "gone"}).kill()
    assert not CgroupV1({"freezer": tmp_path / "gone"}).kill()


def test_what_a_v1_cgroup_holds_is_killed_and_thawed(tmp_path: Path, process: int) -> None:
    (tmp_path / "cgroup.procs").write_text(f"{process}\n")
    (tmp_path / "freezer.state").write_text("FROZEN")
    assert CgroupV1({"freezer": tmp_path}).kill()
    assert os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT) is not None
    assert (tmp_path / "freezer.state").read_text() == "THAWED"
