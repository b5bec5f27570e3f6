"""A hundred connections that do next to nothing, through fifty cycles: every one still answers, contents right."""

import random

import pytest
from tests.integration.sleep.helpers.client import Session
from tests.integration.sleep.helpers.stage import Stage
from tests.integration.standby.helpers.looks import undisturbed
from tests.integration.standby.helpers.websocket import ECHO, WebSocket

EACH = 50
CYCLES = 50
SEED = 100
LENGTHS = (0, 1, 125, 126, 4000)
"""Of messages: around where WebSocket's length field gets longer."""


@pytest.mark.timeout(240)
def test_a_hundred_idle_connections_answer_after_each_of_fifty_sleeps(stage: Stage) -> None:
    app = stage.app("cri", ECHO, scaledown="200ms")
    chance = random.Random(SEED)
    plain = [stage.stack.enter_context(app.connect()) for _ in range(EACH)]
    framed = [WebSocket(stage.stack.enter_context(app.connect())) for _ in range(EACH)]
    everybody: list[Session | WebSocket] = [*plain, *framed]

    def answered(one: Session | WebSocket) -> bool:
        text = "".join(chance.choices("abcdefghij", k=chance.choice(LENGTHS)))
        if isinstance(one, Session):
            return one.ask(f"echo {text}") == text
        return one.echoes(text) and one.pongs()

    for cycle in range(1, CYCLES + 1):
        chance.shuffle(everybody)
        assert all(map(answered, everybody))
        status = app.standby()
        assert (status.checkpoints, status.restores) == (cycle, cycle - 1)
        assert all(undisturbed(one if isinstance(one, Session) else one.session) for one in everybody)
    assert all(map(answered, everybody))
