"""An application that checks all of its memory and counts its requests, while what keeps it alive is killed at random.

Every answer is right, or containerd is told that the application has ended; never wrong data, and never a wait beyond
BOUND.

Slow, about a minute: many rounds of sleep and wake, since it is all about the moments that one does not think of.
"""

import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress

import pytest
from tests.integration import node
from tests.integration.patience import patient
from tests.integration.sleep.helpers import faults
from tests.integration.sleep.helpers.stage import ASLEEP, App, Stage
from tests.integration.standby.helpers.checker import checker

ROUNDS = 60
SEED = 60
MEGABYTES = 24
BOUND = patient(10.0)
"""Seconds from a request to its answer or to the end of its connection: the client's patience (client.TIMEOUT)."""

BOTH = {"standby-duration": "200ms"}
"""It is met in STANDBY and in COLD."""

VICTIMS = ("pager", "criu", "shim", "nobody")
WEIGHTS = (6, 5, 1, 2)


def criu() -> list[int]:
    return [pid for pid, line in node.processes().items() if os.path.basename(line[0]) == "criu"]


def kill(app: App, victim: str, chance: random.Random) -> bool:
    """Whether there was one to be killed."""
    match victim:
        case "pager":
            pids = faults.pagers(app)
        case "criu":
            if app.state in ASLEEP:  # then there is none: it falls asleep once more
                with suppress(ConnectionError, EOFError), app.connect() as session:
                    session.ask("echo")
            with suppress(TimeoutError):  # it runs for a moment, at the dump and at the restore
                node.until(lambda: bool(criu()), "there is a CRIU", 1.5)
            time.sleep(patient(chance.uniform(0, 0.06)))
            pids = criu()
        case "shim":
            pids = [faults.shim_pid(app)]
        case _:
            return True
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(pids)


@pytest.mark.timeout(300)
def test_whoever_is_killed_data_is_right_or_the_end_is_reported(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(SEED)
    killed: Counter[str] = Counter()
    ends = 0
    events = stage.stack.enter_context(stage.client.events())
    app, expected = stage.task(checker(MEGABYTES), annotations=BOTH), 0
    for number in range(ROUNDS):
        victim = chance.choices(VICTIMS, WEIGHTS)[0]
        before_the_request = chance.random() < 0.6
        # Falling asleep begins after 0.3 s, and takes about as long.
        time.sleep(patient(chance.uniform(0.25, 0.9)))
        what = f"round {number}, {victim} killed {'before' if before_the_request else 'during'} request {expected + 1}"
        if before_the_request:
            killed[f"{victim} of a {app.state} container"] += kill(app, victim, chance)
            time.sleep(patient(chance.choice((0, 0.001, 0.02, 0.3))))
        began = time.monotonic()
        try:
            with app.connect() as session:
                session.send(b"next\n")
                if not before_the_request:
                    time.sleep(patient(chance.choice((0, 0.001, 0.005, 0.05))))
                    killed[f"{victim} of a {app.state} container"] += kill(app, victim, chance)
                answer = session.line()
        except (ConnectionError, EOFError, FileNotFoundError):  # the last one is its network namespace's
            ends += 1
            assert [event.topic for event in events.until(app.id, "exit")].count("exit") == 1, what
            took = time.monotonic() - began
            app, expected = stage.task(checker(MEGABYTES), annotations=BOTH), 0
        else:
            took = time.monotonic() - began
            expected += 1
            assert answer == str(expected), f"{what}: {answer}"
        assert took < BOUND, what
    with capsys.disabled():
        print(f"\n  {ROUNDS} rounds, {ends} ends reported, seed {SEED}; killed: {dict(killed)}")
    assert ends <= sum(count for what, count in killed.items() if what.startswith("shim")) + ROUNDS // 20
    assert sum(killed[what] for what in killed if what.startswith("pager")) > 3
    assert sum(killed[what] for what in killed if what.startswith("criu")) > 0
