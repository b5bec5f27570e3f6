"""Which pages are brought in before a wake."""

import pytest

from zeropod.runtime.pager import working_set
from zeropod.runtime.pager.working_set import WORKING_SET_PAGES, Page, WorkingSet, beforehand, following

PAGES: list[Page] = [(1, 0x1000), (1, 0x2000), (7, 0x1000)]


@pytest.fixture(autouse=True)
def _no_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working_set, "TESTED", 0)


def wakes(*touched: list[Page]) -> WorkingSet:
    wanted: WorkingSet = ()
    for pages in touched:
        wanted = following(pages, wanted)
    return wanted


def test_what_a_wake_has_touched_is_brought_in_before_the_next_one() -> None:
    assert beforehand(wakes(PAGES)) == sorted(PAGES)


def test_a_page_touched_once_is_left_out_after_that_and_forgotten_in_the_end() -> None:
    assert beforehand(wakes(PAGES, [])) == []
    assert wakes(PAGES, [])
    assert wakes(PAGES, [], [], [], [], []) == ()


def test_a_page_touched_again_when_it_was_left_out_is_brought_in_for_good() -> None:
    wanted = wakes(PAGES, [], PAGES[:1], [], [], [], [], [], [])
    assert beforehand(wanted) == PAGES[:1]


def test_a_needed_page_is_put_to_the_test_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = wakes(PAGES, [], PAGES)
    monkeypatch.setattr(working_set, "TESTED", 1)
    tested = following([], needed)
    assert beforehand(tested) == []
    assert beforehand(following(PAGES, tested)) == sorted(PAGES)


def test_processes_forked_since_are_not_remembered() -> None:
    assert wakes([(0, 0x1000)]) == ()


def test_pages_touched_by_chance_do_not_pile_up() -> None:
    chance = [[(1, (wake * 500 + number) * 4096) for number in range(500)] for wake in range(20)]
    assert len(beforehand(wakes(*chance))) == 500


def test_the_set_is_bounded_and_the_needed_pages_stay() -> None:
    many: list[Page] = [(2, number * 4096) for number in range(WORKING_SET_PAGES)]
    wanted = following(many, wakes(PAGES, [], PAGES))
    assert len(wanted) == WORKING_SET_PAGES
    assert set(PAGES) <= set(beforehand(wanted))
