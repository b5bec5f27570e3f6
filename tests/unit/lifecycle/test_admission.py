"""Admission slots: locks between processes, here of several openers of the same files and a second process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from zeropod.lifecycle.admission import AdmissionSlots, slots_for

HOLDER = """
import sys, pathlib
from zeropod.lifecycle.admission import AdmissionSlots
slot = AdmissionSlots(pathlib.Path(sys.argv[1]), 1).try_acquire()
print("has it" if slot else "has it not", flush=True)
sys.stdin.read()
"""


def start(place: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.parametrize(("cpus", "number"), [(1, 1), (2, 1), (4, 2), (64, 4)])
def test_half_of_the_cpus_is_left_to_those_who_are_awake(cpus: int, number: int) -> None:
    assert slots_for(cpus) == number


def test_there_are_so_many_and_no_more(tmp_path: Path) -> None:
    slots = [AdmissionSlots(tmp_path / "slots", 2) for _ in range(3)]
    first, second = slots[0].try_acquire(), slots[1].try_acquire()
    assert first
    assert second
    assert slots[2].try_acquire() is None
    first.release()
    assert slots[2].try_acquire()


async def test_a_wait_ends_with_a_turn_and_not_before(tmp_path: Path) -> None:
    one, other = AdmissionSlots(tmp_path, 1), AdmissionSlots(tmp_path, 1)
    slot = one.try_acquire()
    assert slot
    free = trio.Event()

    async def wait() -> None:
        await other.wait_free()
        free.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked(0.01)
        assert one.try_acquire() is None  # who looks in vain disturbs nobody
        await wait_all_tasks_blocked(0.01)
        assert not free.is_set()
        slot.release()
        with trio.fail_after(30):
            await free.wait()
    assert other.try_acquire()


async def test_a_wait_can_be_given_up_and_leaves_nothing_open(tmp_path: Path) -> None:
    slots = AdmissionSlots(tmp_path, 2)
    held = [slots.try_acquire(), slots.try_acquire()]
    before = os.listdir("/proc/self/fd")
    with trio.move_on_after(0.01) as patience:
        await slots.wait_free()
    assert patience.cancelled_caught
    assert os.listdir("/proc/self/fd") == before
    assert all(held)


async def test_of_many_who_wait_each_gets_its_turn(tmp_path: Path) -> None:
    at_it, most, done = 0, 0, 0

    async def fall_asleep() -> None:
        nonlocal at_it, most, done
        slots = AdmissionSlots(tmp_path, 2)
        while not (slot := slots.try_acquire()):
            await slots.wait_free()
        at_it += 1
        most = max(most, at_it)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        at_it -= 1
        done += 1
        slot.release()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(fall_asleep)
    assert (most, done) == (2, 50)


async def test_the_turn_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with start(tmp_path) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "has it\n"
        slots = AdmissionSlots(tmp_path, 1)
        assert slots.try_acquire() is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slots.wait_free)
            await wait_all_tasks_blocked(0.01)
            holder.kill()
            nursery.cancel_scope.deadline = trio.current_time() + 30
        assert not nursery.cancel_scope.cancelled_caught
        assert slots.try_acquire()
