"""Every page is what the image says, whatever the process does with its memory meanwhile."""

from pathlib import Path

import pytest
import trio
from tests.integration.pager.conftest import ADDRESS, BEYOND, ELSEWHERE, Restore
from tests.integration.pager.image import EAGER, LAZY, PAGE, Run

from zeropod.runtime.pager import working_set
from zeropod.runtime.pager.working_set import NEEDED, TOUCHED, WATCHED

LARGE = 6000
"""More pages than are brought in at once."""


def resident(pid: int) -> int:
    """Pages of the process's own memory."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024 // PAGE


async def test_a_page_that_is_touched_is_the_image_s_and_one_beyond_it_is_zero(restore: Restore) -> None:
    async with restore() as one:
        assert await one.process.check(100, 50) == "right"
        assert await one.process.check(one.pages, BEYOND, zero=True) == "right"


async def test_nothing_is_brought_in_unasked_before_the_drain_and_everything_after_it(restore: Restore) -> None:
    async with restore(LARGE) as one:
        before = resident(one.process.pid)
        await trio.sleep(0.1)
        assert resident(one.process.pid) == before
        await one.drained()
        assert resident(one.process.pid) >= before + LARGE
        assert await one.process.check(0, LARGE) == "right"


async def test_the_drain_goes_on_while_pages_are_touched(restore: Restore) -> None:
    async with restore(LARGE) as one:
        one.pager.drain()
        for first in range(0, LARGE, 500):
            assert await one.process.check(first, 500) == "right"
        await one.drained()


async def test_the_working_set_is_brought_in_before_the_wake_and_faults_no_more(
    restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working_set, "TESTED", {TOUCHED: 1, NEEDED: 1})
    wanted = tuple((1, ADDRESS + number * PAGE, TOUCHED) for number in range(0, 400, 2))
    async with restore(LARGE, wanted=wanted) as one:
        before = resident(one.process.pid)
        assert await one.pager.fill() == 200
        assert resident(one.process.pid) == before + 200
        faults = one.pager.journal.faults
        assert await one.process.check(0, 400) == "right"
        assert one.pager.journal.faults == faults + 200
        await one.drained()
    remembered = {address: standing for _, address, standing in one.pager.working_set}
    assert remembered[ADDRESS + PAGE] == TOUCHED
    assert remembered[ADDRESS] == WATCHED


async def test_a_small_image_is_brought_in_whole_and_the_pager_ends_before_the_wake(restore: Restore) -> None:
    async with restore(1000) as one:
        assert await one.pager.fill() == 1000
        with trio.fail_after(5):
            await one.ended.wait()
        assert await one.process.check(0, 1000) == "right"
        assert await one.process.check(1000, BEYOND, zero=True) == "right"


async def test_what_criu_has_restored_itself_is_left_alone(restore: Restore) -> None:
    runs = [Run(ADDRESS, 100), Run(ADDRESS + 100 * PAGE, 100, EAGER), Run(ADDRESS + 200 * PAGE, LARGE, LAZY)]
    async with restore(runs=runs) as one:
        before = resident(one.process.pid)
        await one.drained()
        assert before + LARGE + 100 <= resident(one.process.pid) < before + LARGE + 200


@pytest.mark.parametrize("drained", [False, True], ids=["missing", "drained"])
async def test_discarded_memory_is_zero(restore: Restore, drained: bool) -> None:
    async with restore(LARGE) as one:
        if drained:
            one.pager.drain()
        assert await one.process.ask("discard", ADDRESS + 50 * PAGE, 100 * PAGE) == "done"
        assert await one.process.check(50, 100, zero=True) == "right"
        await one.drained()
        assert await one.process.check(50, 100, zero=True) == "right"
        assert await one.process.check(0, 50) == "right"
        assert await one.process.check(150, LARGE - 150) == "right"


async def test_memory_mapped_anew_where_pages_were_missing_stays_as_it_is(restore: Restore) -> None:
    async with restore(LARGE) as one:
        assert await one.process.ask("unmap", ADDRESS + 100 * PAGE, 50 * PAGE) == "done"
        assert await one.process.ask("map", ADDRESS + 100 * PAGE, 50 * PAGE) == "done"
        await one.drained()
        assert await one.process.check(100, 50, zero=True) == "right"
        assert await one.process.check(0, 100) == "right"
        assert await one.process.check(150, LARGE - 150) == "right"


async def test_moved_memory_has_its_contents_at_the_new_place(restore: Restore) -> None:
    async with restore(LARGE) as one:
        assert await one.process.check(100, 5) == "right"
        assert await one.process.ask("move", ADDRESS + 100 * PAGE, ELSEWHERE, 50 * PAGE) == "done"
        assert await one.process.ask("check", ELSEWHERE, 20, ADDRESS + 100 * PAGE) == "right"
        await one.drained()
        assert await one.process.ask("check", ELSEWHERE, 50, ADDRESS + 100 * PAGE) == "right"
        assert await one.process.check(150, LARGE - 150) == "right"


@pytest.mark.parametrize("drain", [False, True], ids=["missing", "draining"])
async def test_a_child_has_the_missing_pages_of_its_parent(restore: Restore, drain: bool) -> None:
    async with restore(LARGE) as one:
        if drain:
            one.pager.drain()
        assert await one.process.ask("discard", ADDRESS, 10 * PAGE) == "done"
        assert await one.process.ask("fork", ADDRESS + 10 * PAGE, 1000, ADDRESS + 10 * PAGE) == "right"
        assert await one.process.ask("fork", ADDRESS, 10, 0) == "right"
        await one.drained()
        assert await one.process.check(10, LARGE - 10) == "right"


async def test_an_image_cut_short_is_noticed_and_the_process_gets_none_of_it(restore: Restore) -> None:
    async with restore(LARGE) as one:
        pages = one.images / "pages-1.img"
        assert one.pager.damage() == ""
        with pages.open("r+b") as file:
            file.truncate(1000 * PAGE)
        assert f"{pages} has" in one.pager.damage()
        assert await one.process.check(0, 1000) == "right"
        await one.process.say("check", ADDRESS + 2000 * PAGE, 1, 0)
        with trio.fail_after(5):
            await one.ended.wait()
        assert "cut short" in one.lost


async def test_a_deleted_image_is_still_served(restore: Restore) -> None:
    async with restore(LARGE) as one:
        (one.images / "pages-1.img").unlink()
        assert one.pager.damage() == ""
        await one.drained()
        assert await one.process.check(0, LARGE) == "right"


async def test_a_process_that_ends_ends_the_drain(restore: Restore) -> None:
    async with restore(LARGE) as one:
        one.process.kill()
        await one.drained()
        assert not one.lost


async def test_writing_to_an_image_is_noticed(restore: Restore) -> None:
    async with restore() as one:
        with (one.images / "pages-1.img").open("r+b") as file:
            file.write(b"x")
        assert "was written to" in one.pager.damage()
