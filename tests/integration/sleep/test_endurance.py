"""Fifty sleeps and wakes of redis, nginx and a Python server side by side, under clients that come at random times.

Prints what it has measured. The numbers are those of a machine that does all of this at once.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.integration.sleep.helpers.endurance import Visitor
from tests.integration.sleep.helpers.stage import NGINX, REDIS, Stage, Way, python

CYCLES = 50
SEED = 50
SCALEDOWN = "200ms"
GAPS = (0.1, 0.45)
"""Seconds between visits: from well before an application begins to fall asleep to well after."""

PATIENCE = 300.0
"""Seconds for all cycles; they take about a sixth of it on an idle machine with two cores."""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("way", ["cri", "ctr"])
def test_no_connection_fails_and_nothing_is_lost_in_fifty_cycles(
    stage: Stage, way: Way, capsys: pytest.CaptureFixture[str]
) -> None:
    apps = [stage.app(way, kind, SCALEDOWN) for kind in (REDIS, NGINX, python(8000, 8))]
    deadline = time.monotonic() + PATIENCE
    visitors = [Visitor(app, SEED, GAPS) for app in apps]
    with ThreadPoolExecutor(len(visitors)) as threads:
        records = list(threads.map(lambda visitor: visitor.visit_until(CYCLES, deadline), visitors))
    with capsys.disabled():
        print()
        for record in records:
            print(f"  through {way}: {record.line()}")
    assert [failure for record in records for failure in record.failures] == []
    assert all(record.cycles >= CYCLES for record in records)
    assert all(record.restore_errors == record.checkpoint_errors == 0 for record in records)
