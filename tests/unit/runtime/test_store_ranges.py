"""Arithmetic on address ranges against sets of numbers."""

from hypothesis import given
from hypothesis import strategies as st

from zeropod.runtime.memory.userfault.ranges import (
    Range,
    intersect,
    joined,
    pieces,
    subtract,
    total,
)

LAST = 60


def ranges_of(numbers: set[int]) -> list[Range]:
    return joined((number, number + 1) for number in sorted(numbers))


def numbers_of(ranges: list[Range]) -> set[int]:
    return {number for start, end in ranges for number in range(start, end)}


some = st.sets(st.integers(min_value=0, max_value=LAST)).map(ranges_of)


@given(some, some)
def test_subtracting_and_intersecting_is_what_sets_do(ours: list[Range], others: list[Range]) -> None:
    assert numbers_of(subtract(ours, others)) == numbers_of(ours) - numbers_of(others)
    assert numbers_of(intersect(ours, others)) == numbers_of(ours) & numbers_of(others)
    assert total(ours) == len(numbers_of(ours))


@given(some, some, some, st.integers(min_value=1, max_value=9))
def test_pieces_cover_what_is_wanted_and_nothing_that_is_kept(
    wanted: list[Range], kept: list[Range], bounds: list[Range], size: int
) -> None:
    wanted = intersect(subtract(wanted, kept), bounds)
    found = list(pieces(wanted, kept, bounds, size))
    assert numbers_of([part for group in found for part in group]) == numbers_of(wanted)
    for group in found:
        assert 0 < total(group) <= size
        whole = numbers_of([(group[0][0], group[-1][1])])
        assert not whole & numbers_of(kept)
        assert any(whole <= numbers_of([bound]) for bound in bounds)
    assert sum(map(total, found)) == total(wanted)
