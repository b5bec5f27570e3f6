"""The page in a real browser: what a person sees, hears and reaches by keyboard, and what happens without a server.

It runs wherever there is a Chromium on PATH, as Debian's package brings one; the test node has none, which would triple
its size. Pictures of what was seen are in build/screenshots.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from tests.unit.manager.page.chromium import Chromium, chromium, program
from tests.unit.manager.page.scenes import MEBIBYTE, Clock, history

from zeropod.manager.http_server import bind, serve
from zeropod.manager.node import Node
from zeropod.manager.page.document import Source
from zeropod.manager.page.history import Container, History
from zeropod.manager.web import application

pytestmark = pytest.mark.skipif(program() is None, reason="there is no Chromium on PATH (Debian's package chromium)")

PICTURES = Path(__file__).resolve().parents[4] / "build/screenshots"
ROWS = "document.querySelectorAll('#rows tr').length"
FOCUSED = "document.activeElement.id || document.activeElement.className"


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Chromium]:
    PICTURES.mkdir(parents=True, exist_ok=True)
    async with chromium(tmp_path / "profile") as made:
        yield made


@asynccontextmanager
async def served(source: Source, port: int = 0) -> AsyncIterator[int]:
    """A manager's server with this page, until the end of the block."""
    async with trio.open_nursery() as nursery:
        sockets = bind([("127.0.0.1", port)])
        port = sockets[0].getsockname()[1]
        nursery.start_soon(serve, sockets, application(Node(), source))
        yield port
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def shown(browser: Chromium, made: History, kind: str = "node", *, width: int = 1360) -> AsyncIterator[Source]:
    """The page of a history, read and drawn."""
    source = Source(made, kind, "worker-1")
    async with served(source) as port:
        await browser.size(width, 1000)
        await browser.open(f"http://127.0.0.1:{port}/")
        await browser.until("document.querySelector('#connection')?.dataset.state === 'live'")
        yield source


def text(selector: str) -> str:
    return f"document.querySelector({selector!r}).innerText"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("count", "width", "kind"), [(0, 1360, "node"), (5, 1360, "node"), (300, 1360, "cluster"), (12, 420, "node")]
)
async def test_it_is_whole_in_every_size_and_colour(
    browser: Chromium, count: int, width: int, kind: str, scheme: str
) -> None:
    await browser.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    made = history(count, Clock(), nodes=6 if kind == "cluster" else 0)
    async with shown(browser, made, kind, width=width):
        await browser.until(f"{ROWS} === {count}")
        asleep = sum(lane.seen.state in ("STANDBY", "COLD") for lane in made.lanes)
        assert await browser.value(text("#asleep-figure")) == (f"{asleep} of {count}" if count else "\u2013")
        assert await browser.value("document.documentElement.scrollWidth <= window.innerWidth"), "nothing is cut off"
        ground = await browser.value("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(14, 17, 22)") == (scheme == "dark")
        assert (await browser.value(text("#empty")) != "") == (count == 0)
        await browser.screenshot(PICTURES / f"{kind}-{count}-{width}-{scheme}.png")
        assert not browser.complaints


async def test_a_name_is_text_whatever_it_says(browser: Chromium) -> None:
    evil = "<img src=x onerror=\"document.title='hit'\">"
    made = History(Clock())
    made.note("c", Container(evil, evil, evil, evil, evil, 0, why=evil, reasons=((evil, evil, evil),)))
    async with shown(browser, made):
        assert await browser.value(text("#rows .name")) == evil
        await browser.value("document.querySelector('#rows .name').click()")
        assert evil in await browser.value(text("#details-body"))
        assert await browser.value("document.querySelectorAll('table img, dialog img').length") == 0
        assert await browser.value("document.title") != "hit"
        assert not browser.complaints


async def test_a_keyboard_is_enough(browser: Chromium) -> None:
    async with shown(browser, history(5, Clock())):
        await browser.until(f"{ROWS} === 5")
        await browser.press("Tab")
        assert await browser.value(FOCUSED) == "skip"
        await browser.press("Enter")
        await browser.press("Tab")
        assert await browser.value(FOCUSED) == "text"
        await browser.type("redis")
        await browser.until(f"{ROWS} === 0")
        await browser.screenshot(PICTURES / "nothing-found.png")
        await browser.value("document.getElementById('text').select()")
        await browser.type("shop")
        await browser.until(f"{ROWS} === 3")
        for _ in range(5):
            await browser.press("Tab")
        assert await browser.value(FOCUSED) == "name"
        name = await browser.value("document.activeElement.textContent")
        await browser.screenshot(PICTURES / "focus.png")
        await browser.press("Enter")
        assert await browser.value("document.getElementById('details').open")
        assert await browser.value(text("#details-title")) == name
        await browser.press("Tab")
        assert not await browser.value("document.querySelector('main').contains(document.activeElement)")
        await browser.press("Escape")
        assert not await browser.value("document.getElementById('details').open")
        assert await browser.value("document.activeElement.textContent") == name, "where it was before"


async def test_a_screen_reader_finds_a_table_with_names(browser: Chromium) -> None:
    async with shown(browser, history(5, Clock())):
        await browser.until("document.querySelectorAll('#rows .unseen:not(:empty)').length === 5")
        await browser.value("document.getElementById('wakes-details').open = true")
        await browser.until("document.querySelectorAll('#wakes-details td').length")
        names = await browser.accessible("columnheader")
        assert names[7:] == ["Time", "Container", "Woke in"], "of the chart's table"
        assert names[:7] == ["Container", "State", "Time line", "Given back", "Wakes", "Woke in", "Why"]
        assert len(await browser.accessible("rowheader")) == 5
        for role in ("button", "image", "searchbox", "combobox", "radio", "table", "region"):
            found = await browser.accessible(role)
            assert found, role
            assert all(found[1:] if role == "image" else found), (role, found)
        assert any("in the last 15 min" in name for name in await browser.accessible("cell"))
        assert any(name.startswith("Memory given back from ") for name in await browser.accessible("image"))


async def test_what_changes_is_shown_and_the_focus_stays(browser: Chromium) -> None:
    clock = Clock()
    made = history(5, clock)
    async with shown(browser, made):
        await browser.until(f"{ROWS} === 5")
        lane = made.lanes[0]
        name = f"[...document.querySelectorAll('#rows .name')].find((each) => each.textContent === '{lane.seen.pod}')"
        await browser.value(f"{name}.focus()")
        clock.now += 5
        woken = replace(lane.seen, wakes=lane.seen.wakes + 1, woke_at=clock.now, woke_ms=7.25)
        seen = replace(woken, state="RUNNING", since=clock.now, why="exec … is running", out=9 * MEBIBYTE)
        made.note(lane.key, seen)
        await browser.until(f"{name}.closest('tr').innerText.includes('7.3 ms')")
        row = await browser.value(f"{name}.closest('tr').innerText")
        assert "Awake" in row
        assert "9.0 MiB" in row
        assert "Exec … is running" in row
        made.keep({each.key for each in made.lanes[:3]})
        made.note("new", replace(seen, pod="aaa-new", namespace="aaa"))
        await browser.until(f"{ROWS} === 4")
        assert await browser.value("document.querySelector('#rows .name').textContent") == "aaa-new"
        assert await browser.value(f"document.activeElement === {name}")


async def test_filters_leave_what_they_say(browser: Chromium) -> None:
    made = history(24, Clock())
    async with shown(browser, made):
        await browser.until(f"{ROWS} === 24")
        awake = [lane.seen for lane in made.lanes if lane.seen.state == "RUNNING"]
        await browser.value("document.querySelector('#group [value=awake]').click()")
        await browser.until(f"{ROWS} === {len(awake)}")
        assert await browser.value(text("#count")) == f"{len(awake)} of 24 containers"
        reason = await browser.value("document.querySelector('#reasons button').dataset.reason")
        await browser.value("document.querySelector('#reasons button').click()")
        await browser.until(f"{ROWS} === {sum(seen.why == reason for seen in awake)}")
        await browser.value("document.querySelector('#reasons button').click()")
        await browser.value("document.querySelector('#group [value=\"\"]').click()")
        await browser.until(f"{ROWS} === 24")
        choose = "(() => { const n = document.getElementById('namespace'); n.value = 'ci';"
        await browser.value(f"{choose} n.dispatchEvent(new Event('input', {{bubbles: true}})); }})()")
        await browser.until(f"{ROWS} === {sum(lane.seen.namespace == 'ci' for lane in made.lanes)}")
        wakes = int(await browser.value(text("#wakes-figure")))
        await browser.value("document.querySelector('#window [value=\"3600\"]').click()")
        assert int(await browser.value(text("#wakes-figure"))) > wakes


async def test_a_tab_that_comes_and_goes_asks_once_a_second(browser: Chromium) -> None:
    async with shown(browser, history(5, Clock())):
        await browser.value(
            "(() => { const ask = window.fetch; window.asked = 0; window.fetch = async (...all) => { window.asked += 1;"
            " await new Promise((done) => setTimeout(done, 100));"
            " if (window.asked < 6) document.dispatchEvent(new Event('visibilitychange')); return ask(...all); }; })()"
        )
        await trio.sleep(4)
        assert 2 <= await browser.value("window.asked") <= 5


async def test_without_a_server_it_says_so_and_finds_the_next_one(browser: Chromium) -> None:
    source = Source(history(5, Clock()), "node", "worker-1")
    await browser.size(1360, 800)
    async with served(source) as port:
        await browser.open(f"http://127.0.0.1:{port}/")
        await browser.until(f"{ROWS} === 5")
    await browser.until("document.querySelector('#connection').dataset.state === 'lost'")
    said = await browser.value(text("#connection-text"))
    assert said.startswith("The manager does not answer, last heard of at ")
    assert await browser.value(ROWS) == 5, "what was known stays"
    assert await browser.value(text("#announcement")) == "The connection is lost. What is shown is not current."
    await browser.screenshot(PICTURES / "lost.png")
    await browser.value("document.querySelector('#group [value=asleep]').click()")
    since = "document.querySelector('#rows .since').textContent"
    before = await browser.value(since)
    await trio.sleep(1.5)
    await browser.value("document.querySelector('#group [value=\"\"]').click()")
    assert await browser.value(since) == before, "what is not known any more does not go on"
    following = Source(history(7, Clock(), seed=8), "node", "worker-1")
    following.history.problem = "One shim of this node does not answer: the containers there are not shown."
    async with served(following, port):
        await browser.until(f"{ROWS} === 7")
        assert await browser.value("document.querySelector('#connection').dataset.state") == "live"
        assert await browser.value(text("#announcement")) == "Connected again."
        assert await browser.value(text("#problem")) == following.history.problem
