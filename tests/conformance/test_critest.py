"""critest, the CRI's own validation suite, with zeropod and with runc in the same node: `./justw critest`.

Every test that passes with runc has to pass with zeropod, and none is left out that runc runs; once with containers
that stay awake and once with those that fall asleep as soon as they may, which has to have happened. What fails with
both needs what the test node does not have, such as the very image that has a certain digest.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conformance import handlers, programs, registry, results
from tests.conformance.results import Results
from tests.integration import node
from tests.integration.patience import patient

SHIM = "/usr/local/bin/containerd-shim-zeropod-v2"
IMAGES = Path("/node/images/critest.tar")
OUTPUT = Path("/src/build/results/critest")
PROCESSES = 6
LONGEST = 180.0
"""Seconds for one run, which takes one minute on 2 cores."""
FEWEST = 85
"""Tests that pass with runc in the test node at least; with fewer of them nothing is shown."""

SLEEPS = re.compile(r"sleeps \(STANDBY\)")


@pytest.fixture(scope="session")
def critest() -> Iterator[Callable[[str], Results]]:
    """Runs the suite with a handler."""
    where = os.environ.get(programs.VARIABLE)
    if not where:
        raise pytest.UsageError("these tests need critest: ./justw critest")
    handlers.configure(SHIM, more=registry.CONFIG)
    node.start_containerd(*node.stop_containerd())
    OUTPUT.mkdir(parents=True, exist_ok=True)

    def run(handler: str) -> Results:
        log = OUTPUT / f"{handler}.log"
        return results.run(
            Path(where), "critest.test", PROCESSES, [], [f"--runtime-handler={handler}"], log, patient(LONGEST)
        )

    with registry.serving(IMAGES):
        yield run


@pytest.fixture(scope="session")
def reference(critest: Callable[[str], Results]) -> Results:
    found = critest(handlers.REFERENCE)
    assert sum(result.state == results.PASSED for result in found.values()) >= FEWEST, results.counts(found)
    return found


@pytest.mark.timeout(patient(2 * LONGEST + 120))
@pytest.mark.parametrize("handler", [handlers.AWAKE, handlers.ASLEEP])
def test_what_passes_with_runc_passes(critest: Callable[[str], Results], reference: Results, handler: str) -> None:
    said = len(node.containerd_log())
    ours = critest(handler)
    print(f"{handler}: {results.counts(ours)}; runc: {results.counts(reference)}")
    assert results.worse(ours, reference) == {}
    if handler == handlers.ASLEEP:
        assert sum(bool(SLEEPS.search(line)) for line in node.containerd_log()[said:]) >= 2, "some fall asleep"
