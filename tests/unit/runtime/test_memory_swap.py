"""The swap backend and its cgroup, with directories of plain files in the kernel's place."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from zeropod.runtime.cgroups import CgroupV1, CgroupV2, SwapState
from zeropod.runtime.memory.backend import Backend, Kind, MemoryFailed
from zeropod.runtime.memory.backends import ResidentBackend
from zeropod.runtime.memory.swap import SwapBackend

MEBIBYTE = 1 << 20


def lay(directory: Path, files: dict[str, str]) -> Path:
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory


class Played(CgroupV2):
    """One whose reclaim does what the test says, and which remembers what the limit was meanwhile."""

    def __init__(self, directory: Path, does: Callable[["Played", Callable[[], bool]], None]) -> None:
        super().__init__({"": directory})
        self.does = does
        self.limits: list[str] = []

    def reclaim_to_swap(self, size: int, over: Callable[[], bool]) -> None:
        self.limits.append((self.directory / "memory.swap.max").read_text())
        self.does(self, over)

    def hold(self, *, cached: int = 0, present: int = 0, swap: int = 0) -> None:
        lay(
            self.directory,
            {
                "memory.stat": f"anon {present}\nshmem 0\nswapcached {cached}\nfile_writeback 0\nunevictable 0\n",
                "memory.swap.current": f"{swap}\n",
            },
        )


def played(tmp_path: Path, does: Callable[[Played, Callable[[], bool]], None]) -> Played:
    cgroup = Played(lay(tmp_path / "group", {"memory.swap.max": "0\n"}), does)
    cgroup.hold(cached=50 * MEBIBYTE, swap=50 * MEBIBYTE)
    return cgroup


async def test_the_limit_is_open_while_it_reclaims_and_put_back_behind(tmp_path: Path) -> None:
    cgroup = played(tmp_path, lambda cgroup, over: cgroup.hold(swap=60 * MEBIBYTE))
    backend: Backend = SwapBackend(cgroup, tmp_path / "record")
    await backend.move_out([])
    assert cgroup.limits == ["max"]
    assert (cgroup.directory / "memory.swap.max").read_text() == "0"
    assert not (tmp_path / "record").exists()
    assert backend.kind is Kind.SWAP
    assert (backend.usage.out, backend.usage.written) == (60 * MEBIBYTE, 10 * MEBIBYTE)


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_move_that_is_cut_or_cancelled_puts_it_back_too(tmp_path: Path, cancelled: bool) -> None:
    reclaiming = threading.Event()

    def does(cgroup: Played, over: Callable[[], bool]) -> None:
        reclaiming.set()
        cgroup.hold(cached=50 * MEBIBYTE)
        while not over():
            cgroup.hold(cached=int(cgroup.swap_state().cached * 0.99) + 2 * MEBIBYTE)

    cgroup = played(tmp_path, does)
    backend = SwapBackend(cgroup, tmp_path / "record")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backend.move_out, [])
        await trio.to_thread.run_sync(reclaiming.wait)
        if cancelled:
            nursery.cancel_scope.cancel()
        else:
            backend.cut()
            await backend.settle()
    assert set(cgroup.limits) == {"max"}
    assert (cgroup.directory / "memory.swap.max").read_text() == "0"
    assert not (tmp_path / "record").exists()


async def test_reclaiming_ends_when_nothing_more_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("zeropod.runtime.memory.swap.FRUITLESS_PAUSE", 0)
    cgroup = played(tmp_path, lambda cgroup, over: None)
    await SwapBackend(cgroup, tmp_path / "record").move_out([])
    assert cgroup.limits == ["max"] * 6
    assert "50 MiB stay in memory, of which 50 MiB are in swap already" in caplog.text


async def test_memory_that_stays_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeropod.runtime.memory.swap.FRUITLESS_PAUSE", 0)
    cgroup = played(tmp_path, lambda cgroup, over: None)
    cgroup.hold(present=50 * MEBIBYTE)
    with pytest.raises(MemoryFailed, match="50 of 50 MiB could not be moved to swap"):
        await SwapBackend(cgroup, tmp_path / "record").move_out([])
    assert (cgroup.directory / "memory.swap.max").read_text() == "0"


async def test_a_limit_further_up_is_a_failure_before_anything_is_opened(tmp_path: Path) -> None:
    lay(tmp_path, {"memory.swap.max": "4096\n", "memory.swap.current": "4096\n"})
    cgroup = played(tmp_path, lambda cgroup, over: None)
    with pytest.raises(MemoryFailed, match=r"above .* does not let it swap"):
        await SwapBackend(cgroup, tmp_path / "record").move_out([])
    assert cgroup.limits == []


async def test_a_record_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    cgroup = played(tmp_path, lambda cgroup, over: None)
    with pytest.raises(MemoryFailed, match=r"cannot move memory to swap: .*No such file"):
        await SwapBackend(cgroup, tmp_path / "no" / "record").move_out([])
    assert (cgroup.directory / "memory.swap.max").read_text() == "0\n"


async def test_a_predecessors_limit_is_put_back_at_the_start(tmp_path: Path) -> None:
    cgroup = played(tmp_path, lambda cgroup, over: None)
    (cgroup.directory / "memory.swap.max").write_text("max\n")
    (tmp_path / "record").write_text(f'[["{cgroup.directory}/memory.swap.max", "0", "max"]]')
    SwapBackend(cgroup, tmp_path / "record")
    assert (cgroup.directory / "memory.swap.max").read_text() == "0"


async def test_processes_that_are_gone_are_no_failure(tmp_path: Path) -> None:
    cgroup = played(tmp_path, lambda cgroup, over: None)
    cgroup.hold()
    await SwapBackend(cgroup, tmp_path / "record").move_out([2**22 + 1])


async def test_without_a_move_there_is_nothing_to_cut_or_to_wait_for(tmp_path: Path, autojump_clock: object) -> None:
    cgroup = played(tmp_path, lambda cgroup, over: None)
    backends: list[Backend] = [SwapBackend(cgroup, tmp_path / "record"), ResidentBackend()]
    for backend in backends:
        backend.cut()
        await backend.settle()
        await backend.fill()
        await backend.bring_back()
        with trio.move_on_after(1000) as waited:
            await backend.lost()
        assert waited.cancelled_caught
        await backend.close()


V1_STAT = """rss 1
swapcached 1
total_rss 4096
total_shmem 8192
total_swapcached 16384
total_swap 32768
total_writeback 65536
total_unevictable 4096
"""


def test_v1_counts_what_lies_below_it_and_leaves_out_what_is_locked(tmp_path: Path) -> None:
    lay(tmp_path, {"memory.stat": V1_STAT, "memory.usage_in_bytes": "99\n", "memory.swappiness": "60\n"})
    cgroup = CgroupV1({"memory": tmp_path})
    assert cgroup.swap_state() == SwapState(out=32768, cached=16384, writing=65536, present=8192)
    assert cgroup.swap_room() is None
    assert cgroup.swap_settings() == {tmp_path / "memory.swappiness": "200"}
    (tmp_path / "memory.swappiness").write_text("200\n")
    assert cgroup.swap_settings() == {}


def test_v1_reclaims_by_force_empty(tmp_path: Path) -> None:
    lay(tmp_path, {"memory.force_empty": ""})
    CgroupV1({"memory": tmp_path}).reclaim_to_swap(1, lambda: False)
    assert (tmp_path / "memory.force_empty").read_text() == "0"


def test_v2_counts_what_is_in_swap_alone(tmp_path: Path) -> None:
    stat = "anon 4096\nshmem 8192\nswapcached 16384\nfile_writeback 65536\nunevictable 0\n"
    files = {"memory.stat": stat, "memory.swap.current": "20480\n", "memory.current": "7\n", "memory.swap.max": "0\n"}
    cgroup = CgroupV2({"": lay(tmp_path, files)})
    assert cgroup.swap_state() == SwapState(out=4096, cached=16384, writing=65536, present=12288)
    assert cgroup.swap_settings() == {tmp_path / "memory.swap.max": "max"}
    (tmp_path / "memory.swap.max").write_text("max\n")
    assert cgroup.swap_settings() == {}


def test_v2_may_use_what_every_cgroup_above_leaves(tmp_path: Path) -> None:
    lay(tmp_path, {"memory.swap.max": "max\n", "memory.swap.current": "500\n"})
    lay(tmp_path / "pods", {"memory.swap.max": "1000\n", "memory.swap.current": "400\n"})
    lay(tmp_path / "pods" / "pod", {"memory.swap.max": "max\n", "memory.swap.current": "400\n"})
    container = lay(tmp_path / "pods" / "pod" / "container", {"memory.swap.max": "0\n", "memory.swap.current": "0\n"})
    assert CgroupV2({"": container}).swap_room() == 600
    assert CgroupV2({"": tmp_path / "pods"}).swap_room() is None


def test_v2_asks_for_memory_that_is_not_page_cache(tmp_path: Path) -> None:
    lay(tmp_path, {"memory.reclaim": ""})
    CgroupV2({"": tmp_path}).reclaim_to_swap(4096, lambda: False)
    assert (tmp_path / "memory.reclaim").read_text() == "4096 swappiness=200"


def test_a_cgroup_that_is_gone_has_nothing_and_gives_nothing(tmp_path: Path) -> None:
    for cgroup in (CgroupV1({"memory": tmp_path / "gone"}), CgroupV2({"": tmp_path / "gone"})):
        assert cgroup.swap_state() == SwapState()
        assert cgroup.swap_settings() == {}
        cgroup.reclaim_to_swap(4096, lambda: False)
