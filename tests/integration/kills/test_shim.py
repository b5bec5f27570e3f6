"""A shim that is killed takes its containers with it, and leaves nothing of them, whatever it was about to do."""

import pytest
from tests.integration.kills.killing import Killer
from tests.integration.kills.steps import AGAIN, DUMP, FIRST, REACHED, RESTORE, WAKE, Step, points, round_of
from tests.integration.sleep.helpers.stage import Stage

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize(
    ("step", "count"),
    [(FIRST, 4), (AGAIN, 2), (WAKE, 2), (DUMP, 5), (RESTORE, 4)],
    ids=lambda each: getattr(each, "name", None),
)
def test_a_shim_that_is_killed_leaves_nothing(
    stage: Stage, killer: Killer, more: int, step: Step, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    reached = []
    for point in points(step.calls, count * more):
        what = f"killed as {step.name}, at call {point}"
        with round_of(stage, step) as one:
            step.prepare(one)
            one.remember()
            with killer.watch(one.shim, point) as watch:
                step.begin(one)
                killed = watch.wait(REACHED)
            if killed:
                one.ended(f"{what} ({watch.call})")
                reached.append(point)
            else:
                one.answer(what)
    with capsys.disabled():
        print(f"\n  {step.name}: killed at {len(reached)} of {count * more} points, the last at call {max(reached)}")
    assert len(reached) > count * more // 2
