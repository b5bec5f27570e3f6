"""How a container gets from one state into another, by the events of the state machine."""

from collections import deque

from zeropod.lifecycle.machine import TRANSITIONS, Event, Life, State


def way(start: State, end: State) -> list[Event]:
    """Return the fewest events that lead from one state to another."""
    ways: dict[State, list[Event]] = {start: []}
    seen = deque([start])
    while seen:
        here = seen.popleft()
        for (state, event), row in TRANSITIONS.items():
            if state is here and row.next not in ways:
                ways[row.next] = [*ways[here], event]
                seen.append(row.next)
    return ways[end]


def reach(life: Life, state: State) -> None:
    """Take a container into a state."""
    for event in way(life.state, state):
        life.happen(event)
