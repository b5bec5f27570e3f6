"""The one decision whether a container is idle."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.lifecycle.idle.policy import Awake, Idle, Snapshot, decide
from zeropod.lifecycle.machine import State
from zeropod.lifecycle.reasons import Explanation, Reason

SECOND = 10**9
NOW = 10**15
EXEC = Reason.EXEC.because("7")
UNREAD = Reason.UNREAD.because("3 in a pipe")
MAY_SLEEP = (State.RUNNING, State.CHECKPOINTING)

EXPLANATIONS = st.sampled_from([EXEC, UNREAD, Reason.STOPPING.because(), Reason.ARRIVAL.because()])
SNAPSHOTS = st.builds(
    Snapshot,
    now=st.integers(0, 10**18),
    wall_clock=st.floats(2 * 10**9, 4 * 10**9),
    pending=st.none() | EXPLANATIONS,
    state=st.sampled_from(State),
    inhibitors=st.lists(EXPLANATIONS, max_size=3),
    is_wanted=st.booleans(),
    listens=st.booleans(),
    last_activity=st.integers(0, 10**18),
    idle_threshold=st.floats(0, 10**6),
    is_unanswered=st.booleans(),
    rests=st.booleans(),
)
IDLE = Snapshot(now=NOW, wall_clock=43260.0, last_activity=NOW - 60 * SECOND, idle_threshold=60.0)


def awake(seen: Snapshot) -> Awake:
    decision = decide(seen)
    assert isinstance(decision, Awake)
    return decision


def test_nothing_that_was_looked_at_keeps_it_awake() -> None:
    assert decide(Snapshot()) == Idle()


def test_it_is_idle_from_the_threshold_on_and_not_a_nanosecond_before() -> None:
    assert decide(IDLE) == Idle()
    assert awake(replace(IDLE, now=NOW - 1)).until == NOW


def test_when_it_was_active_last_is_said_by_the_clock_on_the_wall() -> None:
    seen = replace(IDLE, last_activity=NOW - 20 * SECOND)
    words = "last active at 12:00:40 UTC, sleeps 60 s after that"
    assert awake(seen) == Awake(NOW + 40 * SECOND, Explanation(Reason.RECENTLY_ACTIVE, words, ""))


def test_one_that_was_asked_to_sleep_does_so_however_recent_its_activity() -> None:
    assert decide(replace(IDLE, last_activity=NOW, idle_threshold=0.0)) == Idle()


@pytest.mark.parametrize("state", State)
def test_only_one_that_runs_or_is_on_the_way_down_may_sleep(state: State) -> None:
    decision = decide(replace(IDLE, state=state))
    if state in MAY_SLEEP:
        assert decision == Idle()
    else:
        expected = "it is paused" if state is State.PAUSED else f"it is {state.name.lower()}"
        assert isinstance(decision, Awake)
        assert (decision.until, decision.why.text) == (None, expected)


def test_what_is_unanswered_keeps_it_awake_unless_it_rests() -> None:
    seen = replace(IDLE, is_unanswered=True, rests=False)
    assert awake(seen).why == Reason.ANSWER_DUE.because()
    assert decide(replace(seen, rests=True)) == Idle()
    assert decide(replace(seen, is_unanswered=False)) == Idle()


ORDER = [
    ({"pending": UNREAD}, UNREAD),
    ({"inhibitors": [EXEC, Reason.STOPPING.because()]}, EXEC),
    ({"state": State.PAUSED}, Reason.PAUSED.because()),
    ({"is_wanted": True}, Reason.REQUESTED.because()),
    ({"listens": False}, Reason.NOT_LISTENING.because()),
    ({"idle_threshold": 90.0}, Reason.RECENTLY_ACTIVE.because("12:00:00", 90.0)),
    ({"is_unanswered": True, "rests": False}, Reason.ANSWER_DUE.because()),
]


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_of_several_reasons_the_first_is_told(first: int) -> None:
    seen = IDLE
    for changes, _ in ORDER[first:]:
        seen = replace(seen, **changes)  # type: ignore[arg-type]
    assert awake(seen).why == ORDER[first][1]


@given(SNAPSHOTS)
def test_it_is_idle_exactly_if_nothing_stands_against_it(seen: Snapshot) -> None:
    against = (
        seen.pending is not None,
        bool(seen.inhibitors),
        seen.state not in MAY_SLEEP,
        seen.is_wanted,
        not seen.listens,
        seen.last_activity + round(seen.idle_threshold * SECOND) > seen.now,
        seen.is_unanswered and not seen.rests,
    )
    assert (decide(seen) == Idle()) is not any(against)


@given(SNAPSHOTS)
def test_it_is_never_to_be_looked_at_again_in_the_past(seen: Snapshot) -> None:
    decision = decide(seen)
    if isinstance(decision, Awake) and decision.until is not None:
        assert decision.until >= seen.now


@given(SNAPSHOTS)
def test_time_alone_ends_what_ends_at_a_known_time(seen: Snapshot) -> None:
    decision = decide(seen)
    if isinstance(decision, Awake) and decision.why.reason is Reason.RECENTLY_ACTIVE:
        assert decision.until is not None
        later = decide(replace(seen, now=decision.until))
        assert later == Idle() or (isinstance(later, Awake) and later.why.reason is Reason.ANSWER_DUE)


@given(SNAPSHOTS, st.integers(0, 10**18))
def test_waiting_never_makes_an_idle_container_awake(seen: Snapshot, later: int) -> None:
    if decide(seen) == Idle():
        assert decide(replace(seen, now=seen.now + later)) == Idle()


@given(SNAPSHOTS, EXPLANATIONS)
def test_an_inhibitor_more_never_puts_it_to_sleep(seen: Snapshot, why: Explanation) -> None:
    assert isinstance(decide(replace(seen, inhibitors=[*seen.inhibitors, why])), Awake)
