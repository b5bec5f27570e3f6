"""Moves the memory of a container that runs to the page store, in moments in which it is frozen.

Owns how long each of them is, and when it is enough: what is left is moved in the last freeze, for which nothing may
have to wait longer because the container is large. What has been moved and is touched again comes back by page faults;
so what is left converges to what the container works with.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from zeropod.concurrency import race
from zeropod.lifecycle.init_process import InitProcess
from zeropod.runtime.memory.backend import MemoryFailed
from zeropod.runtime.memory.store import StoreBackend
from zeropod.runtime.memory.userfault.piece import Piece

FREEZE: Final = 0.06
"""Seconds of one moment, as it is aimed at."""
LONGEST: Final = 0.1
"""Seconds after which it is cut; what has been written in it is in vain then."""
SLOWEST: Final = 1.0
"""The same for the smallest piece: on a node whose CPUs are all busy it takes what it takes."""
LEAST: Final = 16 << 20
MOST: Final = 256 << 20
"""Bytes of a piece. A move has costs of its own: smaller ones would not take less."""
FIRST: Final = 16 << 20
ENOUGH: Final = 24 << 20
"""Bytes that may be left."""
SHRINKS: Final = 0.8
"""What is left after a round, at most, as a part of what was left after the one before; else the rounds end."""
ROUNDS: Final = 6
WITHIN: Final = 5.0
"""Seconds for all rounds, and `PACE` besides: then the last freeze takes what is left, however much."""
PACE: Final = 100 << 20
"""Bytes for which there is a second more."""
IN_VAIN: Final = 4
"""Smallest pieces that may be cut in a round; with as many, the last freeze would be as long as the memory is large."""


async def shrink(
    init_process: InitProcess,
    backend: StoreBackend,
    freeze: Callable[[], Awaitable[None]],
    thaw: Callable[[], None],
) -> None:
    """Raises MemoryFailed, MemoryLost, CgroupError, OSError; the container runs on every way out."""
    before = float(init_process.cgroup.resident_bytes())
    piece, until = Piece(FIRST), trio.current_time() + WITHIN + before / PACE
    for _ in range(ROUNDS):
        if before <= ENOUGH or trio.current_time() >= until:
            return
        await _round(init_process, backend, piece, until, freeze, thaw)
        now = init_process.cgroup.resident_bytes()
        if now > before * SHRINKS:
            return
        before = now


async def _round(
    init_process: InitProcess,
    backend: StoreBackend,
    piece: Piece,
    until: float,
    freeze: Callable[[], Awaitable[None]],
    thaw: Callable[[], None],
) -> None:
    """Go once over all of the memory, or until the time is up."""
    piece.is_last, cut, is_late = False, 0, False

    async def thaw_in_time() -> None:
        """Thaw it first, which cuts the move: what that has begun in a process may need it to run."""
        nonlocal is_late
        await trio.sleep(LONGEST if piece.size > LEAST else SLOWEST)
        is_late = True
        thaw()
        await trio.sleep_forever()

    while not piece.is_last and trio.current_time() < until:
        begin, is_late = (piece.pid, piece.address), False
        started = trio.current_time()
        try:
            await freeze()
            await race(lambda: backend.move_piece(init_process.pids(), piece), thaw_in_time)
        finally:
            thaw()
        took = trio.current_time() - started
        if is_late:
            piece.pid, piece.address = begin
            piece.is_last = False
            cut += piece.size <= LEAST
            if cut == IN_VAIN:
                raise MemoryFailed(f"of {cut} pieces of its memory, the smallest took longer than {SLOWEST:g} s")
        piece.size = round(min(max(piece.size * min(FREEZE / took, 2.0), LEAST), MOST))
        await trio.sleep(took)  # it runs at least half of the time
