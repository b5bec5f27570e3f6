"""A container that runs is frozen for moments only, and the rounds end when little is left or nothing is won."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from zeropod.lifecycle.standby.shrinking import ENOUGH, LEAST, LONGEST, MOST, PACE, ROUNDS, SLOWEST, WITHIN, shrink
from zeropod.runtime.memory.backend import MemoryFailed
from zeropod.runtime.memory.userfault.piece import Piece

MEBIBYTE = 1 << 20


class World:
    """A container of so much memory, a part of which comes back as fast as it is moved out."""

    def __init__(self, size: int, speed: float, works_with: float = 0.0) -> None:
        self.resident = size
        self.speed = speed
        """Bytes that are moved in a second."""
        self.works_with = size * works_with
        self.at = 0
        self.size = size
        self.frozen: float | None = None
        self.moments: list[float] = []
        self.ran: list[float] = []
        self.rounds = 0
        self.thawed_at = 0.0
        self.thawed = trio.Event()
        self.fails: Callable[[], None] = lambda: None

    async def freeze(self) -> None:
        assert self.frozen is None
        await trio.lowlevel.checkpoint()
        if self.moments:
            self.ran.append(trio.current_time() - self.thawed_at)
        self.frozen, self.thawed = trio.current_time(), trio.Event()

    def thaw(self) -> None:
        if self.frozen is not None:
            self.moments.append(trio.current_time() - self.frozen)
            self.frozen, self.thawed_at = None, trio.current_time()
            self.thawed.set()

    async def move_piece(self, _pids: object, piece: Piece) -> None:
        assert self.frozen is not None
        self.fails()
        assert LEAST <= piece.size <= MOST
        amount = min(piece.size, self.size - self.at)
        # What it does in a process ends when that runs again, and no sooner, even if it is cancelled.
        with trio.CancelScope(shield=True), trio.move_on_after(0.002 + amount / self.speed):
            await self.thawed.wait()
            return
        self.at += amount
        self.resident = int(max(self.works_with, self.resident - amount))
        piece.is_last = self.at >= self.size
        if piece.is_last:
            self.at = 0
            self.rounds += 1

    async def shrink(self) -> None:
        init_process: Any = SimpleNamespace(
            cgroup=SimpleNamespace(resident_bytes=lambda: self.resident), pids=lambda: [1]
        )
        backend: Any = SimpleNamespace(move_piece=self.move_piece)
        await shrink(init_process, backend, self.freeze, self.thaw)


@pytest.mark.parametrize("speed", [200, 1000, 5000])
async def test_each_moment_is_short_whatever_the_size(speed: int, autojump_clock: MockClock) -> None:
    world = World(2048 * MEBIBYTE, speed * MEBIBYTE)
    await world.shrink()
    assert world.frozen is None
    assert world.resident <= ENOUGH
    assert max(world.moments) <= LONGEST + 0.001
    assert sum(world.ran) >= sum(world.moments[1:-1]) * 0.9, "it runs at least as long as it is frozen"


async def test_a_small_one_is_not_frozen_at_all(autojump_clock: MockClock) -> None:
    world = World(ENOUGH, 1000 * MEBIBYTE)
    await world.shrink()
    assert not world.moments


@pytest.mark.parametrize("works_with", [0.5, 0.9, 1.0])
async def test_the_rounds_end_when_nothing_more_is_won(works_with: float, autojump_clock: MockClock) -> None:
    world = World(512 * MEBIBYTE, 1000 * MEBIBYTE, works_with)
    await world.shrink()
    assert 1 <= world.rounds <= 2 <= ROUNDS


async def test_a_disk_that_is_too_slow_ends_it_and_it_runs(autojump_clock: MockClock) -> None:
    world = World(512 * MEBIBYTE, MEBIBYTE)
    with pytest.raises(MemoryFailed, match="took longer than"):
        await world.shrink()
    assert world.frozen is None
    assert max(world.moments) <= SLOWEST + 0.001


async def test_a_node_that_is_busy_is_borne(autojump_clock: MockClock) -> None:
    world = World(64 * MEBIBYTE, 20 * MEBIBYTE)
    await world.shrink()
    assert world.resident <= ENOUGH


async def test_it_ends_in_time_with_what_is_left(autojump_clock: MockClock) -> None:
    world = World(4096 * MEBIBYTE, 20 * MEBIBYTE)
    began = trio.current_time()
    await world.shrink()
    assert trio.current_time() - began < WITHIN + 4096 * MEBIBYTE / PACE + 2 * SLOWEST
    assert world.frozen is None


async def test_what_fails_leaves_it_running(autojump_clock: MockClock) -> None:
    def fail() -> None:
        raise MemoryFailed("the disk is full")

    world = World(512 * MEBIBYTE, 1000 * MEBIBYTE)
    world.fails = fail
    with pytest.raises(MemoryFailed, match="the disk is full"):
        await world.shrink()
    assert world.frozen is None
