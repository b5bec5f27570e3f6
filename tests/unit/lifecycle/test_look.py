"""What a look at a container says where nothing in it listens."""

from types import SimpleNamespace
from typing import Any

import pytest

from zeropod.lifecycle.idle.monitor import look_at_traffic, require_idle
from zeropod.lifecycle.machine import Event, Life
from zeropod.lifecycle.strategy import NotIdle


def test_without_a_listener_it_sleeps_only_if_that_was_asked_for() -> None:
    life, network = Life(), SimpleNamespace()
    life.happen(Event.START)
    workload: Any = SimpleNamespace(life=life)
    nothing: Any = network
    with pytest.raises(NotIdle, match="nothing in it listens"):
        require_idle(look_at_traffic(workload, nothing, ()))
    life.sleep_wanted.set()
    require_idle(look_at_traffic(workload, nothing, ()))
