"""Which pages are read in before a wake."""

from hypothesis import given
from hypothesis import strategies as st

from zeropod.runtime.memory.touched import NOTED, PAGES, ROUNDS, Touched


def test_what_the_last_wake_touched_is_wanted() -> None:
    touched = Touched()
    assert touched.wanted() == []
    touched.learn([3, 1])
    assert touched.wanted() == [1, 3]


def test_a_page_is_forgotten_after_some_wakes_without_it() -> None:
    touched = Touched()
    touched.learn([1])
    for _ in range(ROUNDS - 1):
        touched.learn([2])
        assert touched.wanted() == [1, 2]
    touched.learn([2])
    assert touched.wanted() == [2]


def test_two_kinds_of_wakes_by_turns_are_both_remembered() -> None:
    touched = Touched()
    for _ in range(10):
        touched.learn([1, 2])
        touched.learn([1, 3])
    assert touched.wanted() == [1, 2, 3]


def test_when_there_are_too_many_those_that_are_touched_again_and_again_are_chosen() -> None:
    touched = Touched()
    touched.learn([*range(10), *range(10_000, 10_000 + PAGES)])
    touched.learn([*range(20_000, 20_000 + PAGES), *range(10)])
    assert len(touched.wanted()) == PAGES
    assert set(range(10)) <= set(touched.wanted())


def test_a_long_time_awake_adds_nothing() -> None:
    touched = Touched()
    touched.learn(range(100_000))
    assert touched.wanted() == []
    touched.learn([1, 2])
    touched.learn(range(100_000))
    assert touched.wanted() == [1, 2]


@given(st.lists(st.lists(st.integers(0, 2000), max_size=2000), max_size=8))
def test_it_is_bounded_and_in_order(wakes: list[list[int]]) -> None:
    touched, seen = Touched(), set[int]()
    for wake in wakes:
        touched.learn(wake)
        seen |= set(wake)
        wanted = touched.wanted()
        assert wanted == sorted(set(wanted))
        assert len(wanted) <= PAGES < NOTED
        assert set(wanted) <= seen
        assert len(set(wake)) > PAGES or set(wake) <= set(wanted) or len(seen) > PAGES
