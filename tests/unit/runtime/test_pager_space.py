"""An address space's table against a plain list of pages, through everything that a process can do to it."""

import mmap
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from zeropod.runtime.pagemap import Image, Runs
from zeropod.runtime.pager.journal import Event, Journal, Kind
from zeropod.runtime.pager.pages import source
from zeropod.runtime.pager.space import Space, Spaces

PAGE = mmap.PAGESIZE
FILE = 3
"""Number of the image's file in sources."""
SOURCE = source(FILE, 0)
LAST = 64
"""Pages of the address space in these tests; the first has number 1."""

Model = dict[int, int]
"""Page of the image by page of the address space."""

pages = st.integers(min_value=1, max_value=LAST)
lengths = st.integers(min_value=1, max_value=16)
events = st.one_of(
    st.tuples(st.just(Kind.REMOVE), pages, lengths, st.just(0)),
    st.tuples(st.just(Kind.REMAP), pages, lengths, st.integers(min_value=1, max_value=2 * LAST)),
    st.tuples(st.just(Kind.FORK), pages, lengths, st.just(0)),
)


def image(*runs: tuple[int, int]) -> Image:
    table, offset = Runs(), 0
    for first, count in runs:
        table.append(first * PAGE, (first + count) * PAGE, 0, offset, True)
        offset += count * PAGE
    return Image({1: table}, (Path("pages-1.img"),))


def spaces(journal: Journal, of: Image) -> Spaces:
    return Spaces(of, [FILE], journal)


def found(space: Space) -> Model:
    """What the table says, page by page."""
    model = {}
    for page in range(1, 4 * LAST):
        place, state = space.find(page * PAGE)
        if state >= 0:
            assert state == (place - SOURCE) // PAGE
            model[page] = state
    return model


def changed(model: Model, kind: Kind, first: int, count: int, to: int) -> Model:
    if kind is Kind.FORK:
        return model
    gone = set(range(first, first + count))
    kept = {page: source for page, source in model.items() if page not in gone}
    if kind is Kind.REMAP:
        moved = {page - first + to: source for page, source in model.items() if page in gone}
        kept = {page: source for page, source in kept.items() if not to <= page < to + count} | moved
    return kept


@settings(max_examples=200)
@given(st.lists(events, max_size=12))
def test_the_table_says_what_the_process_has_done_and_a_successor_reads_the_same(
    happened: list[tuple[Kind, int, int, int]],
) -> None:
    journal = Journal.create()
    try:
        of = image((2, 10), (20, 5), (30, 30))
        ours = spaces(journal, of)
        ours.happen([Event(Kind.ADOPT, 0, 1)])
        models = [found(ours.all[0])]
        for kind, first, count, to in happened:
            if kind is Kind.REMAP and abs(to - first) < count:
                continue  # mremap(2) refuses to move onto itself
            second = (first + count) * PAGE if kind is Kind.REMOVE else to * PAGE
            ours.happen([Event(kind, 0, first * PAGE, second, count * PAGE)])
            models[0] = changed(models[0], kind, first, count, to)
            if kind is Kind.FORK:
                models.append(models[0])
        assert list(map(found, ours.all)) == models
        again = Journal(journal.descriptor)
        assert list(map(found, spaces(again, of).all)) == models
        again.memory.close()
    finally:
        journal.close()


def test_the_drain_finds_every_missing_page_once_in_slices() -> None:
    journal = Journal.create()
    ours = spaces(journal, image((2, 10), (20, 5)))
    ours.happen([Event(Kind.ADOPT, 0, 1)])
    space = ours.all[0]
    space.states[3] = 1
    slices = []
    while (found := space.missing(4))[3]:
        address, source, first, count = found
        assert source == SOURCE + first * PAGE
        slices.append((address // PAGE, count))
        space.states[first : first + count] = b"\1" * count
    assert slices == [(2, 3), (6, 4), (10, 2), (20, 4), (24, 1)]
    assert space.count_missing() == 0
    journal.close()


def test_pages_that_moved_behind_the_drain_are_found_all_the_same() -> None:
    journal = Journal.create()
    ours = spaces(journal, image((20, 2), (40, 2)))
    ours.happen([Event(Kind.ADOPT, 0, 1)])
    space = ours.all[0]
    _, _, first, count = space.missing(8)
    space.states[first : first + count] = b"\1" * count
    assert space.missing(8)[0] == 40 * PAGE
    ours.happen([Event(Kind.REMAP, 0, 40 * PAGE, 10 * PAGE, 2 * PAGE)])
    assert space.missing(8)[::3] == (10 * PAGE, 2)
    journal.close()


def test_what_criu_has_restored_is_not_missing() -> None:
    journal = Journal.create()
    table = Runs()
    table.append(PAGE, 3 * PAGE, 0, 0, False)
    ours = spaces(journal, Image({1: table}, (Path("pages-1.img"),)))
    ours.happen([Event(Kind.ADOPT, 0, 1)])
    assert ours.all[0].count_missing() == 0
    assert ours.all[0].find(PAGE) == (SOURCE, 0)
    journal.close()


@given(st.sets(st.integers(0, 39)), st.integers(2, 11), st.sampled_from([1, 2, 4, 16]))
def test_what_is_brought_in_with_a_page_lies_around_it_and_is_missing(present: set[int], page: int, ahead: int) -> None:
    journal = Journal.create()
    ours = spaces(journal, image((2, 10), (20, 30)))
    ours.happen([Event(Kind.ADOPT, 0, 1)])
    space = ours.all[0]
    for state in present - {page - 2}:
        space.states[state] = 1
    address, source, first, count = space.around(page * PAGE, ahead)
    low, block = address // PAGE, page // ahead * ahead
    assert max(2, block) <= low <= page < low + count <= min(12, block + ahead)
    assert (source, first) == space.find(address)
    assert space.states[first : first + count] == bytes(count)
    assert low in (2, block) or space.states[first - 1]
    assert low + count in (12, block + ahead) or space.states[first + count]
    journal.close()


def test_an_address_space_that_has_ended_has_nothing_and_what_follows_keeps_its_number() -> None:
    journal = Journal.create()
    of = image((2, 10))
    ours = spaces(journal, of)
    ours.happen([Event(Kind.ADOPT, 0, 1), Event(Kind.FORK, 0), Event(Kind.GONE, 1), Event(Kind.FORK, 0)])
    assert [space.gone for space in ours.all] == [False, True, False]
    assert found(ours.all[1]) == {}
    assert journal.pages_missing == 10
    again = spaces(Journal(journal.descriptor), of)
    assert list(map(found, again.all)) == list(map(found, ours.all))
    journal.close()


def test_the_other_side_catches_up() -> None:
    journal = Journal.create()
    of = image((2, 10))
    ours = spaces(journal, of)
    ours.happen([Event(Kind.ADOPT, 0, 1)])
    theirs = spaces(Journal(journal.descriptor), of)
    ours.happen([Event(Kind.REMOVE, 0, 3 * PAGE, 5 * PAGE), Event(Kind.FORK, 0)])
    assert len(theirs.all) == 1
    theirs.catch_up()
    theirs.catch_up()
    assert list(map(found, theirs.all)) == list(map(found, ours.all))
    assert journal.pages_missing == 8 - 2
    theirs.all[0].mark(0, 100 * PAGE, 2)
    assert ours.all[0].states[:10] == b"\2\0\0" + b"\2" * 7 or ours.all[0].states[0] == 2
    journal.close()
