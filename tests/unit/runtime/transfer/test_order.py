"""Which pieces of a page store are needed, from the indexes."""

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.memory.userfault.extents import Extent, Index
from zeropod.runtime.pager.journal import IN, MISSING, OUTDATED
from zeropod.runtime.pager.presence import PIECE
from zeropod.runtime.transfer.order import needed, needed_pages, of_pages

PER_PIECE = PIECE // PAGE


def extent(start: int, file: int, offset: int, states: bytes) -> Extent:
    """In pages."""
    return Extent(start * PAGE, (start + len(states)) * PAGE, file, offset * PAGE, states)


def test_pieces_with_a_page_that_can_come_back_are_needed() -> None:
    outdated, states = bytes([OUTDATED]), bytearray([OUTDATED]) * (4 * PER_PIECE)
    states[PER_PIECE] = MISSING
    states[4 * PER_PIECE - 1] = IN
    index = Index([extent(100, 3, 0, bytes(states)), extent(9000, 4, 7 * PER_PIECE, outdated)])
    other = Index([extent(5, 3, 2 * PER_PIECE - 1, bytes(2))])
    assert needed([index]) == {(3, 1), (3, 3)}
    assert needed([index, other]) == {(3, 1), (3, 2), (3, 3)}
    assert needed([Index()]) == set()


def test_a_run_over_several_pieces_needs_all_of_them() -> None:
    assert needed([Index([extent(0, 1, 3, bytes(3 * PER_PIECE))])]) == {(1, 0), (1, 1), (1, 2), (1, 3)}


def test_single_pages_that_can_come_back_are_known() -> None:
    index = Index([extent(100, 3, 2, bytes([MISSING, OUTDATED, IN])), extent(900, 4, 0, bytes([OUTDATED, MISSING]))])
    other = Index([extent(5, 3, 5, bytes(1))])
    found = needed_pages([index, other], {3: 6 * PAGE, 4: 2 * PAGE, 5: PAGE + 1})
    assert {number: list(pages) for number, pages in found.items()} == {3: [0, 0, 1, 0, 1, 1], 4: [0, 1], 5: [0, 0]}


def test_pieces_come_in_the_order_of_pages_and_once() -> None:
    indexes = {1: Index([extent(100, 3, 0, bytes(3 * PER_PIECE))]), 2: Index([extent(100, 4, PER_PIECE, bytes(2))])}
    pages = [(1, 100 + 2 * PER_PIECE), (2, 101), (1, 100), (1, 101), (9, 100), (2, 102), (1, 99)]
    found = of_pages([(pid, page * PAGE) for pid, page in pages], indexes)
    assert list(found) == [(3, 2), (4, 1), (3, 0)]
