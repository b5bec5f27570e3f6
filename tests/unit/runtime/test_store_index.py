"""The page store's files, and what a move changes about where pages are."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.memory.userfault import extents
from zeropod.runtime.memory.userfault.extents import Extent, Index, replaced, without
from zeropod.runtime.memory.userfault.ranges import Range, joined
from zeropod.runtime.memory.userfault.store import (
    FILES,
    GARBAGE,
    LARGE,
    PageStore,
)
from zeropod.runtime.pagemap import Image
from zeropod.runtime.pager.journal import IN, MISSING, OUTDATED, Event, Journal, Kind
from zeropod.runtime.pager.space import Space, Spaces

LAST = 40

Model = dict[int, tuple[int, int, int]]
"""File, page in it and state, by page."""


def extents_of(model: Model) -> list[Extent]:
    return [
        Extent(page * PAGE, (page + 1) * PAGE, file, at * PAGE, bytes([state]))
        for page, (file, at, state) in sorted(model.items())
    ]


def model_of(found: Iterable[Extent]) -> Model:
    return {
        page: (extent.file, extent.offset // PAGE + page - extent.start // PAGE, extent.states[number])
        for extent in found
        for number, page in enumerate(range(extent.start // PAGE, extent.end // PAGE))
    }


def ranges_of(pages: set[int]) -> list[Range]:
    return joined((page * PAGE, (page + 1) * PAGE) for page in sorted(pages))


models = st.dictionaries(
    st.integers(0, LAST),
    st.tuples(st.integers(1, 3), st.integers(0, 100), st.sampled_from([MISSING, IN, OUTDATED])),
)
sets = st.sets(st.integers(0, LAST))


def together(model: Model) -> Index:
    """Through the form that a pager is started with: runs as long as possible."""
    with table(model) as space:
        return Index.of_space(space)


@contextmanager
def table(model: Model) -> Iterator[Space]:
    index = Index(extents_of(model))
    numbers = sorted(index.files)
    journal = Journal.create()
    try:
        image = Image(
            {7: extents.renumbered(index.runs, {number: place for place, number in enumerate(numbers)})},
            tuple(Path(str(number)) for number in numbers),
        )
        spaces = Spaces(image, numbers, journal)
        spaces.happen([Event(Kind.ADOPT, 0, 7)])
        spaces.all[0].states[: len(index.states)] = index.states
        yield spaces.all[0]
    finally:
        journal.close()


@given(models, sets, models)
def test_a_move_replaces_what_it_has_written_and_nothing_else(old: Model, gone: set[int], new: Model) -> None:
    new = {page: place for page, place in new.items() if page in gone}
    found = replaced(together(old), ranges_of(gone), extents_of(new))
    assert model_of(found) == {page: place for page, place in old.items() if page not in gone} | new
    assert [extent.start for extent in found] == sorted(extent.start for extent in found)


@given(models, sets)
def test_what_can_be_used_is_what_is_not_outdated(model: Model, gone: set[int]) -> None:
    found = together(model)
    assert model_of(found) == model
    assert found.ranges == ranges_of(set(model))
    assert found.usable == ranges_of({page for page, (_, _, state) in model.items() if state != OUTDATED})
    assert found.missing == ranges_of({page for page, (_, _, state) in model.items() if state == MISSING})
    assert model_of(list(without(found, ranges_of(gone)))) == {
        page: place for page, place in model.items() if page not in gone
    }


def test_files_are_for_root_alone_and_go_with_the_store(tmp_path: Path) -> None:
    store = PageStore(tmp_path / "store")
    file = store.begin()
    assert file.append(b"x" * PAGE) == 0
    assert file.append(b"y" * PAGE) == PAGE
    store.add(file)
    assert store.directory.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in store.directory.iterdir())
    assert os.pread(store.files[1].descriptor, 1, PAGE) == b"y"
    assert store.damage() == ""
    store.close()
    assert not store.directory.exists()


def test_a_file_that_is_abandoned_leaves_nothing(tmp_path: Path) -> None:
    store = PageStore(tmp_path)
    file = store.begin()
    file.append(b"x")
    file.abandon()
    assert list(tmp_path.iterdir()) == []
    store.close()


def test_what_a_former_store_has_left_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "pages-3").write_bytes(b"x")
    store = PageStore(tmp_path)
    assert list(tmp_path.iterdir()) == []
    store.close()


def test_a_file_that_is_mostly_out_of_date_is_written_anew(tmp_path: Path) -> None:
    store = PageStore(tmp_path)
    for _ in range(2):
        file = store.begin()
        file.append(bytes(2 * GARBAGE + 2 * PAGE))
        store.add(file)
    assert store.outdated({1: GARBAGE + PAGE, 2: PAGE}) == {2}
    assert store.outdated({1: GARBAGE + PAGE}) == set()
    store.close()


def test_much_is_not_written_anew_before_the_disk_needs_it(tmp_path: Path) -> None:
    store = PageStore(tmp_path)
    size = 60 * GARBAGE
    third, few = size // 3, size // 60

    def add() -> None:
        file = store.begin()
        os.truncate(file.path, size)
        store.add(file)

    add()
    add()
    assert store.outdated({1: third, 2: size - third}) == set()
    assert store.outdated({1: few, 2: size - few}) == {1}
    add()
    add()
    assert store.bytes > LARGE * size
    assert store.outdated({1: third, 2: few, 3: few, 4: size - third - 2 * few}) == {1, 2, 3}
    store.close()


def test_there_are_not_ever_more_files(tmp_path: Path) -> None:
    store = PageStore(tmp_path)
    for _ in range(FILES):
        file = store.begin()
        file.append(bytes(PAGE))
        store.add(file)
    live = {number: PAGE * number for number in store.files}
    assert store.outdated(live) == {1}
    store.keep([2])
    assert list(store.files) == [2]
    store.close()


@given(models)
def test_current_bytes_are_counted_for_each_file(model: Model) -> None:
    expected: dict[int, int] = {}
    for file, _, _ in model.values():
        expected[file] = expected.get(file, 0) + PAGE
    live: dict[int, int] = {}
    with table(model) as space:
        extents.count(space, live)
    assert live == expected
