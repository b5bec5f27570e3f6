"""Connections at every instant of a fall asleep: while it is frozen, its memory moves out, and it is dumped.

Slow: every round is a fall asleep, and it takes many to meet all the instants.
"""

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from tests.integration.patience import patient
from tests.integration.sleep.helpers.client import Session
from tests.integration.sleep.helpers.stage import KINDS, App, Stage
from tests.integration.standby.helpers.looks import retransmitted

SEED = 7
SCALEDOWN = patient(0.2)
SLACK = patient(0.3)
"""Seconds by which the time in which connections begin is longer than it took to fall asleep."""
TURNS = 3
"""Applications that fall asleep one after the other, where the node has few CPUs."""


def ask(app: App, session: Session, number: int) -> bool:
    match app.kind.name:
        case "redis":
            return session.redis("ECHO", f"number {number}") == b"number %d" % number
        case "nginx":
            return session.get() == "hello from nginx\n"
        case _:
            return session.ask(f"echo number {number}") == f"number {number}"


def quiet(app: App, chance: random.Random) -> float:
    """Seconds after which a connection comes at any instant of the fall into sleep, or shortly before or after it."""
    return SCALEDOWN + chance.uniform(-0.02, app.status.last_checkpoint_ms / 1000 * TURNS + SLACK)


def knock(app: App, chance: random.Random, number: int, seen: Counter[str]) -> None:
    """Falls quiet for a random time and then connects a few times, a few milliseconds apart.

    Nobody's first packet goes unanswered, so nobody sends it a second time, which takes a second; and everybody is
    served by the application.
    """
    time.sleep(quiet(app, chance))
    seen[app.state] += 1
    with ExitStack() as stack:
        sessions = []
        for _ in range(chance.choice((1, 1, 2, 5, 20))):
            sessions.append(stack.enter_context(app.connect()))
            assert retransmitted(sessions[-1]) == 0, "the handshake was not answered at once"
            time.sleep(chance.uniform(0, 0.01))
        assert all(ask(app, session, number + offset) for offset, session in enumerate(sessions))


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("address", "depth"), [("pod", "STANDBY"), ("pod", "COLD"), ("localhost", "COLD")])
def test_a_connection_while_it_falls_asleep_never_waits_for_a_second_syn(
    stage: Stage, address: str, depth: str
) -> None:
    rounds = 40
    annotations = {"standby": str(depth == "STANDBY").lower()}
    apps = [stage.app("cri" if address == "pod" else "ctr", kind, "200ms", annotations) for kind in KINDS.values()]
    seen: Counter[str] = Counter()

    def visit(app: App) -> None:
        chance = random.Random(f"{SEED} {app.kind.name}")
        for number in range(rounds):
            knock(app, chance, number, seen)

    with ThreadPoolExecutor(len(apps)) as threads:
        list(threads.map(visit, apps))
    # Otherwise the rounds have met nothing but a container that was awake, or asleep. A freeze takes milliseconds.
    assert depth == "STANDBY" or seen["CHECKPOINTING"] >= 10, f"the connections came at {seen}"
    assert seen[depth] >= 10, f"the connections came at {seen}"


@pytest.mark.timeout(120)
def test_a_request_on_an_open_connection_while_it_falls_asleep_is_answered(stage: Stage) -> None:
    app = stage.app("cri", KINDS["python"], "200ms", {"standby": "false"})
    chance = random.Random(SEED)
    seen: Counter[str] = Counter()
    with app.connect() as one, app.connect() as other:
        for number in range(1, 41):
            time.sleep(quiet(app, chance))
            seen[app.state] += 1
            for session in chance.sample([one, other], chance.choice((1, 2))):
                assert ask(app, session, number)
    assert seen["CHECKPOINTING"] >= 3, f"the requests came at {seen}"
