"""Pieces of a container's memory: each is as large as it may be, and together they are all of it, once."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.memory.userfault.holdings import Member
from zeropod.runtime.memory.userfault.piece import Piece
from zeropod.runtime.memory.userfault.ranges import Range, intersect, joined, total


@st.composite
def memories(draw: st.DrawFn) -> dict[int, list[Range]]:
    found = {}
    for pid in range(10, 10 + draw(st.integers(1, 3))):
        at, ranges = 0, []
        for _ in range(draw(st.integers(0, 4))):
            at += draw(st.integers(1, 9)) * PAGE
            size = draw(st.integers(1, 30)) * PAGE
            ranges.append((at, at + size))
            at += size
        found[pid] = ranges
    return found


@given(memories(), st.integers(1, 40), st.integers(0, PAGE - 1))
def test_each_piece_is_bounded_and_all_are_everything_once(
    memory: dict[int, list[Range]], pages: int, odd: int
) -> None:
    def present(pid: int, ranges: Sequence[Range]) -> Sequence[Range]:
        return intersect(memory[pid], ranges)

    piece = Piece(pages * PAGE + odd)
    moved: dict[int, list[Range]] = {pid: [] for pid in memory}
    for _ in range(200):
        members = [Member(pid, -1, ranges=list(memory[pid])) for pid in memory]
        chosen = piece.cut(members, present)
        amount = 0
        for member in chosen:
            taken = intersect(memory[member.pid], member.ranges)
            assert not intersect(taken, joined(sorted(moved[member.pid]))), "nothing is moved twice in one round"
            moved[member.pid] += taken
            amount += total(taken)
        assert amount <= pages * PAGE
        if piece.is_last:
            break
        assert amount == pages * PAGE, "only the last one is smaller"
    assert piece.is_last
    assert (piece.pid, piece.address) == (0, 0)
    assert {pid: joined(sorted(ranges)) for pid, ranges in moved.items()} == {
        pid: joined(ranges) for pid, ranges in memory.items()
    }
