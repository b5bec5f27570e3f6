"""Turns: locks between processes, here between several openers of the same files and a real second process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from zeropod.lifecycle.admission import Turns, at_once

HOLDER = """
import sys, pathlib
from zeropod.lifecycle.admission import Turns
turn = Turns(pathlib.Path(sys.argv[1]), 1).take()
print("has it" if turn else "has it not", flush=True)
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
    assert at_once(cpus) == number


def test_there_are_so_many_and_no_more(tmp_path: Path) -> None:
    turns = [Turns(tmp_path / "turns", 2) for _ in range(3)]
    first, second = turns[0].take(), turns[1].take()
    assert first
    assert second
    assert turns[2].take() is None
    first.end()
    assert turns[2].take()


async def test_a_wait_ends_with_a_turn_and_not_before(tmp_path: Path) -> None:
    one, other = Turns(tmp_path, 1), Turns(tmp_path, 1)
    turn = one.take()
    assert turn
    free = trio.Event()

    async def wait() -> None:
        await other.free()
        free.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked(0.01)
        assert one.take() is None  # who looks in vain disturbs nobody
        await wait_all_tasks_blocked(0.01)
        assert not free.is_set()
        turn.end()
        with trio.fail_after(30):
            await free.wait()
    assert other.take()


async def test_a_wait_can_be_given_up_and_leaves_nothing_open(tmp_path: Path) -> None:
    turns = Turns(tmp_path, 2)
    held = [turns.take(), turns.take()]
    before = os.listdir("/proc/self/fd")
    with trio.move_on_after(0.01) as patience:
        await turns.free()
    assert patience.cancelled_caught
    assert os.listdir("/proc/self/fd") == before
    assert all(held)


async def test_of_many_who_wait_each_gets_its_turn(tmp_path: Path) -> None:
    at_it, most, done = 0, 0, 0

    async def fall_asleep() -> None:
        nonlocal at_it, most, done
        turns = Turns(tmp_path, 2)
        while not (turn := turns.take()):
            await turns.free()
        at_it += 1
        most = max(most, at_it)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        at_it -= 1
        done += 1
        turn.end()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(fall_asleep)
    assert (most, done) == (2, 50)


async def test_the_turn_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with start(tmp_path) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "has it\n"
        turns = Turns(tmp_path, 1)
        assert turns.take() is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.free)
            await wait_all_tasks_blocked(0.01)
            holder.kill()
            nursery.cancel_scope.deadline = trio.current_time() + 30
        assert not nursery.cancel_scope.cancelled_caught
        assert turns.take()
