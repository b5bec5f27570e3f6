"""What is remembered of containers, and what a reader gets of it."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.manager.page.scenes import MEBIBYTE, NOW, Clock, history

from zeropod.manager.page.document import Source, pieces
from zeropod.manager.page.history import AGE, GONE, LEAST, MOST, STATES, TOTAL, Container, History

AWAKE = Container("shop", "web-1", "web", "", "RUNNING", NOW - 100)
ASLEEP = replace(AWAKE, state="STANDBY", since=NOW - 50, sleeps=1, out=40 * MEBIBYTE, left=MEBIBYTE, backend="store")
WOKEN = replace(ASLEEP, state="RUNNING", since=NOW - 20, wakes=1, woke_at=NOW - 20, woke_ms=1.5, out=0)


def document(source: Source, run: str = "", after: int = 0) -> dict[str, Any]:
    made: dict[str, Any] = json.loads("".join(pieces(source, run, after)))
    return made


def rows(made: History, number: int = 0) -> list[tuple[float, str, float, int, int]]:
    """The rows of one lane: seconds before now, state, milliseconds, wakes, MiB."""
    return [
        (NOW - at, STATES[state], ms, wakes, out // MEBIBYTE) for at, state, ms, wakes, out in made.lanes[number].rows()
    ]


def of(*steps: Container, clock: Clock | None = None) -> History:
    made = History(clock or Clock())
    for step in steps:
        made.note("c1", step)
    return made


def test_a_sleep_and_a_wake_are_rows() -> None:
    assert rows(of(AWAKE, ASLEEP, WOKEN)) == [
        (100, "RUNNING", 0, 0, 0), (50, "STANDBY", 0, 0, 40), (20, "RUNNING", 1.5, 1, 0)
    ]  # fmt: skip


def test_a_container_that_woke_and_sleeps_again_before_it_is_looked_at_has_woken() -> None:
    again = replace(ASLEEP, since=NOW - 10, wakes=2, sleeps=2, woke_at=NOW - 20, woke_ms=2.5)
    assert rows(of(ASLEEP, again)) == [
        (50, "STANDBY", 0, 0, 40), (20, "RUNNING", 2.5, 2, 0), (10, "STANDBY", 0, 0, 40)
    ]  # fmt: skip


def test_a_container_that_slept_and_woke_before_it_is_looked_at_has_slept() -> None:
    woken = replace(AWAKE, since=NOW - 20, sleeps=1, wakes=1, slept_at=NOW - 30, woke_at=NOW - 20, woke_ms=2.5)
    expected = [(100, "RUNNING", 0, 0, 0), (30, "STANDBY", 0, 0, 0), (20, "RUNNING", 2.5, 1, 0)]
    assert rows(of(AWAKE, woken)) == expected
    assert rows(of(AWAKE, woken, replace(woken, why="in use"))) == expected
    # A custom resource does not tell when it fell asleep.
    assert rows(of(AWAKE, replace(woken, slept_at=0.0))) == [expected[0], expected[2]]


def test_what_is_met_awake_or_asleep_is_known_since_its_last_wake() -> None:
    assert rows(of(WOKEN)) == [(20, "RUNNING", 1.5, 1, 0)]
    asleep = replace(WOKEN, state="STANDBY", since=NOW - 5)
    assert rows(of(asleep)) == [(20, "RUNNING", 1.5, 1, 0), (5, "STANDBY", 0, 0, 0)]


def test_a_state_in_between_has_a_row_only_if_it_lasts() -> None:
    falling = replace(AWAKE, state="CHECKPOINTING", since=NOW - 50.4)
    assert [row[1] for row in rows(of(AWAKE, falling, ASLEEP))] == ["RUNNING", "STANDBY"]
    slow = replace(falling, since=NOW - 58)
    assert [row[1] for row in rows(of(AWAKE, slow, ASLEEP))] == ["RUNNING", "CHECKPOINTING", "STANDBY"]
    waking = replace(ASLEEP, state="RESTORING", since=NOW - 20.2)
    last = rows(of(ASLEEP, waking, WOKEN))[-1]
    assert (round(last[0], 1), *last[1:]) == (20.2, "RUNNING", 1.5, 1, 0)


def test_a_nap_for_a_probe_is_sleep() -> None:
    nap = replace(ASLEEP, state="DOZING", since=NOW - 30)
    assert rows(of(ASLEEP, nap, replace(ASLEEP, since=NOW - 29))) == [(50, "STANDBY", 0, 0, 40)]


def test_memory_that_moves_by_itself_has_a_row_every_ten_seconds_at_most() -> None:
    clock = Clock(NOW - 50)
    made = of(ASLEEP, clock=clock)
    for second in range(41):
        clock.now = NOW - 49 + second
        made.note("c1", replace(ASLEEP, out=(second + 50) * MEBIBYTE))
    found = rows(made)
    assert [row[0] for row in found] == [50, 40, 30, 20, 10]
    assert [row[4] for row in found] == [58, 68, 78, 88, 90]


def test_a_state_without_a_name_here_is_another() -> None:
    assert rows(of(AWAKE, replace(AWAKE, state="11", since=NOW - 7)))[-1] == (7, "OTHER", 0, 0, 0)


def test_what_is_remembered_has_an_end() -> None:
    clock, made = Clock(), History()
    made.clock = clock
    count = 200
    for step in range(400):
        clock.now = NOW + step * 2
        for number in range(count):
            state = "RUNNING" if step % 2 else "STANDBY"
            made.note(str(number), replace(AWAKE, state=state, since=clock.now, sleeps=step))
    lengths = {len(list(lane.rows())) for lane in made.lanes}
    assert lengths == {TOTAL // count}
    made.keep({"0"})
    for step in range(800):
        clock.now += 2
        made.note("0", replace(AWAKE, state="RUNNING" if step % 2 else "STANDBY", since=clock.now))
    assert len(list(made.lanes[0].rows())) == MOST
    clock.now += AGE + 10
    made.note("0", replace(AWAKE, state="COLD", since=clock.now))
    assert [STATES[row[1]] for row in made.lanes[0].rows()] == ["RUNNING", "COLD"]
    assert LEAST * 10_000 < 4 * TOTAL, "however many there are, they take a few megabytes"


def test_a_reader_who_asks_for_what_is_new_has_in_the_end_what_one_has_who_asks_for_all() -> None:
    clock, chance = Clock(), random.Random(3)
    made = history(12, clock)
    source = Source(made, "node", "n")
    known: dict[int, dict[str, Any]] = {}
    run, after = "", 0
    for _ in range(300):
        clock.now += chance.uniform(0.1, 3)
        lane = chance.choice(made.lanes)
        seen = lane.seen
        match chance.randrange(5):
            case 0:
                made.note(lane.key, replace(seen, state="STANDBY", since=clock.now, out=chance.randrange(1 << 30)))
            case 1:
                made.note(lane.key, replace(seen, state="CHECKPOINTING", since=clock.now))
            case 2:
                woken = replace(seen, wakes=seen.wakes + 1, woke_at=clock.now, woke_ms=chance.random())
                made.note(lane.key, replace(woken, state="RUNNING", since=clock.now))
            case 3:
                made.note(lane.key, replace(seen, out=chance.randrange(1 << 30)))
            case 4 if len(made.lanes) > 3 and chance.random() < 0.2:
                made.keep({each.key for each in made.lanes} - {lane.key})
        if chance.random() < 0.4:
            told = document(source, run, after)
            assert told["full"] == (after == 0)
            run, after = told["run"], told["sequence"]
            _take(known, told)
    _take(known, document(source, run, after))
    whole: dict[int, dict[str, Any]] = {}
    _take(whole, document(source))
    for lanes in (known, whole):
        for each in lanes.values():
            each["rows"] = [row for row in each["rows"] if row[0] > clock.now - 600]
    assert known == whole


def _take(known: dict[int, dict[str, Any]], told: dict[str, Any]) -> None:
    """Put a document to what is known, as model.js does."""
    for number in told["gone"]:
        known.pop(number, None)
    for lane in told["containers"]:
        before = known.get(lane["id"], {}).get("rows", [])
        for row in lane["rows"]:
            while before and before[-1][0] >= row[0]:
                before.pop()
            before.append(row)
        known[lane["id"]] = {**lane, "rows": before}


def test_nothing_new_is_little() -> None:
    source = Source(history(300, Clock()), "node", "n")
    told = "".join(pieces(source, source.run, source.history.sequence))
    assert json.loads(told)["containers"] == []
    assert len(told) < 400


@pytest.mark.parametrize("run", ["another", ""])
def test_who_has_read_another_run_gets_all(run: str) -> None:
    source = Source(of(AWAKE, ASLEEP), "node", "n")
    assert document(source, run, 2)["full"]
    assert len(document(source, run, 2)["containers"]) == 1
    assert document(source, source.run, 99)["full"], "a number that was never given"


def test_who_has_missed_what_went_gets_all() -> None:
    made = of(AWAKE)
    source = Source(made, "node", "n")
    for number in range(GONE + 5):
        made.note(f"x{number}", AWAKE)
        made.keep({"c1"})
    told = document(source, source.run, 1)
    assert (told["full"], len(told["containers"])) == (True, 1)
    recent = document(source, source.run, made.sequence - 2)
    assert (recent["full"], recent["gone"], recent["containers"]) == (False, [GONE + 6], [])


def test_a_container_without_news_is_not_written() -> None:
    made = of(AWAKE)
    made.note("c2", AWAKE)
    before = made.sequence
    made.note("c2", replace(AWAKE))
    assert made.sequence == before
    source = Source(made, "node", "n")
    made.note("c1", ASLEEP)
    assert [lane["id"] for lane in document(source, source.run, before)["containers"]] == [1]
