"""Which pages are brought in for a wake, before they fault."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.pager import working_set
from zeropod.runtime.pager.working_set import (
    BLOCK,
    NEEDED,
    TOUCHED,
    WORKING_SET_PAGES,
    Page,
    WorkingSet,
    following,
    wanted_pages,
)

PAGES: list[Page] = [(1, 0x1000), (1, 0x2000), (7, 0x1000)]


@pytest.fixture(autouse=True)
def _no_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working_set, "TESTED", {TOUCHED: 0, NEEDED: 0})


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every page is put to the test at each wake."""
    monkeypatch.setattr(working_set, "TESTED", {TOUCHED: 1, NEEDED: 1})


def wakes(*touched: list[Page]) -> WorkingSet:
    wanted: WorkingSet = ()
    for pages in touched:
        wanted = following(pages, wanted)
    return wanted


def apart(*blocks: int) -> list[Page]:
    return [(1, block * BLOCK * PAGE) for block in blocks]


def test_what_a_wake_has_touched_is_brought_in_at_the_next_one_in_that_order() -> None:
    assert wanted_pages(wakes(apart(7, 2, 5))) == apart(7, 2, 5)


def test_what_was_touched_twice_comes_first_and_new_pages_last() -> None:
    assert wanted_pages(wakes(apart(1, 2), apart(9, 2))) == apart(2, 1, 9)


def test_pages_of_a_block_come_together() -> None:
    first, second = apart(3)[0], apart(8)[0]
    neighbour = (1, first[1] + 5 * PAGE)
    assert wanted_pages(wakes([neighbour, second, first])) == [first, neighbour, second]


def test_a_page_that_is_left_out_and_not_touched_is_forgotten_in_the_end(tested: None) -> None:
    assert wanted_pages(wakes(PAGES, [])) == []
    assert wakes(PAGES, [])
    assert wakes(PAGES, [], [], [], [], []) == ()


def test_a_page_touched_again_when_it_was_left_out_is_needed(tested: None) -> None:
    assert [standing for _, _, standing in wakes(PAGES[:1], [], PAGES[:1])] == [NEEDED]


def test_a_page_that_is_brought_in_stays_until_it_is_tested() -> None:
    assert wanted_pages(wakes(PAGES, *[[]] * 20)) == PAGES


def test_processes_forked_since_are_not_remembered() -> None:
    assert wakes([(0, 0x1000)]) == ()


def test_pages_touched_by_chance_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working_set, "TESTED", {TOUCHED: 1 / 4, NEEDED: 1 / 64})
    chance = [[(1, (wake * 100 + number) * BLOCK * PAGE) for number in range(100)] for wake in range(40)]
    assert len(wanted_pages(wakes(*chance))) < 800


def test_the_set_is_bounded_and_the_needed_pages_stay() -> None:
    many: list[Page] = [(2, number * PAGE) for number in range(WORKING_SET_PAGES)]
    wanted = following(many, wakes(PAGES, PAGES))
    assert len(wanted) == WORKING_SET_PAGES
    assert set(PAGES) <= set(wanted_pages(wanted))


def test_written_pages_count_where_another_one_of_their_block_faulted() -> None:
    block = 32 * BLOCK * PAGE
    changed = {1: [(block - PAGE, block + 2 * PAGE), (block + 5 * PAGE, block + 6 * PAGE), (2 * block, 3 * block)]}
    wanted = following([(1, block + 3 * PAGE)], (), changed)
    assert wanted_pages(wanted) == [(1, block + page * PAGE) for page in (0, 1, 3, 5)]


def test_a_page_that_is_written_to_again_needs_no_test() -> None:
    page = (1, 0x1000)
    wanted = following([], wakes([page]), {1: [(0, 0x2000)], 2: [(0, 0x1000)]})
    assert set(wanted) == {(1, 0, TOUCHED), (1, 0x1000, NEEDED)}


blocks = st.integers(0, 5 * BLOCK - 1)


@given(st.lists(blocks, max_size=20), st.lists(blocks, max_size=20), st.sets(blocks, max_size=60))
def test_the_set_is_the_pages_known_faulted_and_written_to(
    first: list[int], then: list[int], written: set[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(working_set, "TESTED", {TOUCHED: 0, NEEDED: 0})
        changed = {3: [(page * PAGE, (page + 1) * PAGE) for page in sorted(written)]}
        wanted = following(
            [(3, page * PAGE) for page in then], following([(3, page * PAGE) for page in first], ()), changed
        )
    known = {page // BLOCK for page in (*first, *then)}
    expected = {*first, *then, *(page for page in written if page // BLOCK in known)}
    assert {(pid, address // PAGE) for pid, address, _ in wanted} == {(3, page) for page in expected}
    touched = {*then, *(page for page in written if page // BLOCK in known)}
    needed = {address // PAGE for _, address, standing in wanted if standing == NEEDED}
    assert needed == touched & set(first)
