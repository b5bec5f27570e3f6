"""Situations of an end in order: an application whose shutdown takes longer than `scaledown-duration` must not fall
asleep in it, from whichever state and whatever else goes on."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

from tests.integration.cri import Pod
from tests.integration.situations.scene import Scene, Situation, Subject

SHUTDOWN = 2.5
"""Seconds that the application takes; the scene's `scaledown-duration` is far less."""
GRACE = 20

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


def stop_while_awake(scene: Scene) -> Iterator[None]:
    one = _prepared(scene)
    yield
    one.tell("port")
    _ends_in_order(scene, one)


def stop_in_standby(scene: Scene) -> Iterator[None]:
    one = _prepared(scene)
    yield
    one.sleeps_still()
    _ends_in_order(scene, one)


def stop_in_standby_while_a_hook_runs(scene: Scene) -> Iterator[None]:
    one = _prepared(scene)
    yield
    one.sleeps_still()
    _ends_in_order(scene, one, hook=1.0)


def stop_in_cold(scene: Scene) -> Iterator[None]:
    one = _prepared(scene, pod=scene.own_pod(scene.annotations(standby="false")), night=False)
    yield
    one.until("COLD")
    _ends_in_order(scene, one)


def stop_in_cold_while_a_hook_runs(scene: Scene) -> Iterator[None]:
    one = _prepared(scene, pod=scene.own_pod(scene.annotations(standby="false")), night=False)
    yield
    one.until("COLD")
    _ends_in_order(scene, one, hook=1.0)


SITUATIONS: tuple[Situation, ...] = (
    stop_while_awake,
    stop_in_standby,
    stop_in_standby_while_a_hook_runs,
    stop_in_cold,
    stop_in_cold_while_a_hook_runs,
)
