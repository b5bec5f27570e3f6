"""Situations of an end in order: an application whose shutdown takes longer than `scaledown-duration` must not fall
asleep in it, from whichever state and whatever else goes on."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

from tests.integration.cri import Pod
from tests.integration.situations.scene import Scene, Situation, Subject

SHUTDOWN = 2.5
"""Seconds that the application takes; the scene's `scaledown-duration` is far less."""
GRACE = 20
HOOK = 1.0
"""Seconds that a preStop hook runs before the stop; it goes on beside the shutdown."""

IN_ORDER = f"""
    def end(number, frame):
        print("shutting down", flush=True)
        time.sleep({SHUTDOWN})
        os._exit(7 if digest() == kept["digest"] else 8)
    kept["digest"] = digest()
    signal.signal(signal.SIGTERM, end)
"""


def _ends_in_order(scene: Scene, one: Subject, hook: float = 0.0) -> None:
    """Stop it, after so many seconds of a preStop hook that goes on, and look how it ends."""
    states: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            states.append(one.state)
            time.sleep(0.02)

    if hook:
        scene.background(lambda: one.cri.exec("sleep", str(hook + SHUTDOWN)))
        time.sleep(hook)
    looking: Future[None] = scene.background(look)
    begun = time.monotonic()
    try:
        one.cri.stop(GRACE)
        took = time.monotonic() - begun
    finally:
        over.set()
        looking.result(10)
    status = one.cri.wait()
    log = one.cri.logs()
    assert (status.exit_code, "shutting down" in log) == (7, True), (status, log, states)
    assert SHUTDOWN <= took < SHUTDOWN + 4, took
    running = states.index("RUNNING")
    assert set(states[running:]) <= {"RUNNING", "STOPPED", ""}, states


def _prepared(scene: Scene, pod: Pod | None = None, *, night: bool = True) -> Subject:
    one = scene.subject(pod=pod, night=night)
    one.tell(IN_ORDER)
    return one


def stop_in_order_from_every_state(scene: Scene) -> Iterator[None]:
    awake, standby, hooked = (_prepared(scene) for _ in range(3))
    cold, cold_hooked = (
        _prepared(scene, scene.own_pod(scene.annotations(standby="false")), night=False) for _ in range(2)
    )
    yield
    for one in (standby, hooked):
        one.sleeps_still()
    for one in (cold, cold_hooked):
        one.until("COLD")
    awake.tell("port")
    ways = {
        "awake": (awake, 0.0),
        "in STANDBY": (standby, 0.0),
        "in STANDBY, while a hook runs": (hooked, HOOK),
        "in COLD": (cold, 0.0),
        "in COLD, while a hook runs": (cold_hooked, HOOK),
    }
    ends = {way: scene.background(partial(_ends_in_order, scene, one, hook)) for way, (one, hook) in ways.items()}
    failures = {way: failure for way, end in ends.items() if (failure := end.exception(60))}
    assert failures == {}


SITUATIONS: tuple[Situation, ...] = (stop_in_order_from_every_state,)
