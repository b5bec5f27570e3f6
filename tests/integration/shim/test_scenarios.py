"""The table of scenarios: what can be observed of a container is the same on our runtime as on containerd's own."""

import pytest
from tests.integration.conftest import OURS, REFERENCE, Worlds
from tests.integration.shim import commands, failures, lifecycle, limits, pods, processes, streams
from tests.integration.shim.scenario import TABLE

MODULES = (commands, lifecycle, processes, streams, limits, failures, pods)


TRIES = 3
"""Of the reference, which now and then loses what ours must not: an OOM event, the output that a reader has missed."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TABLE)
def test_scenario(name: str, worlds: Worlds) -> None:
    outcomes = {}
    for runtime in worlds.runtimes:
        with worlds.open(runtime) as world:
            outcomes[runtime] = TABLE[name](world)
    if len(outcomes) == 2:
        for _ in range(TRIES - 1):
            if outcomes[OURS] == outcomes[REFERENCE]:
                break
            with worlds.open(REFERENCE) as world:
                outcomes[REFERENCE] = TABLE[name](world)
        assert outcomes[OURS] == outcomes[REFERENCE]
    else:
        for runtime, outcome in outcomes.items():
            print(runtime)
            for fact, value in outcome.items():
                print(f"    {fact}: {value!r}")
