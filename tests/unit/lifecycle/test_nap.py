"""Whether a nap may end, in virtual time."""

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from tests.unit.shim.fakes import FakeNetwork
from trio.testing import MockClock

from zeropod.kernel import proc_stat
from zeropod.kernel.sock_diag import TcpSocket, TcpState
from zeropod.lifecycle.settings import Settings
from zeropod.lifecycle.standby.nap import SETTLE, WORKS, Nap

PORT = 8080
PID = 4_194_305
"""Of a process that cannot exist: pid_max is less."""


class Slow:
    """An application that closes what its client has closed after so many seconds; stands in for `Baseline`."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._closes_at = trio.current_time() + seconds
        self.has_connected = lambda: False
        self.waits_in_listeners = lambda _: True
        self.disregarded = 0

    def ending(self, _: object) -> bool:
        return trio.current_time() < self._closes_at

    def seen(self) -> str:
        return "all"

    def disregard(self, seen: str) -> None:
        assert seen == "all"
        self.disregarded += 1


def napping(network: FakeNetwork, baseline: Slow | None = None) -> Nap:
    init_process = SimpleNamespace(socket_inodes=lambda: frozenset({7}), pids=lambda: (PID,))
    container: Any = SimpleNamespace(settings=Settings(ports=frozenset({PORT})), init_process=init_process)
    given: Any = network
    its: Any = baseline or Slow()
    return Nap(container, given, its)


def connection(inode: int, quiet_ms: int) -> TcpSocket:
    own, other = ("10.0.0.1", PORT), ("10.0.0.2", 5)
    return TcpSocket(2, TcpState.ESTABLISHED, own, other, inode, 0, 0, 0, quiet_ms, quiet_ms)


async def test_a_busy_application_has_time_to_close_a_probes_connection(autojump_clock: MockClock) -> None:
    nap = napping(FakeNetwork(), Slow(0.6))
    await nap.settled()
    assert 0.6 <= trio.current_time() < 0.7
    assert nap.use() is None


async def test_one_that_never_closes_it_is_not_waited_for(autojump_clock: MockClock) -> None:
    await napping(FakeNetwork(), Slow(1000.0)).settled()
    assert trio.current_time() == pytest.approx(SETTLE)


@pytest.mark.parametrize(
    ("has_connected", "waits", "wanted", "disregarded"),
    [(False, True, False, 0), (True, True, True, 0), (True, False, False, 1)],
    ids=["none", "a client", "a stray segment"],
)
async def test_who_waits_as_it_begins_may_be_gone_when_it_ends(
    has_connected: bool, waits: bool, wanted: bool, disregarded: int
) -> None:
    baseline = Slow()
    baseline.has_connected, baseline.waits_in_listeners = lambda: has_connected, lambda _: waits
    nap = napping(FakeNetwork(), baseline)
    nap.begins()
    assert (bool(nap.awaited), baseline.disregarded) == (wanted, disregarded)


@pytest.mark.parametrize(("inode", "quiet_ms", "is_use"), [(7, 500, True), (7, 1500, False), (8, 500, False)])
async def test_data_on_a_connection_of_its_own_is_use(
    autojump_clock: MockClock, inode: int, quiet_ms: int, is_use: bool
) -> None:
    network = FakeNetwork()
    network.sockets = [connection(inode, quiet_ms)]
    nap = napping(network)
    await trio.sleep(1.0)
    use = "the connection from 10.0.0.2 port 5 (ESTABLISHED) was used while it ran for a probe"
    assert str(nap.use() or "") == use * is_use


async def test_a_signal_that_an_exec_has_sent_is_handled_before_it_is_frozen(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = trio.current_time()
    monkeypatch.setattr(proc_stat, "has_due_signal", lambda pid: trio.current_time() < begun + 0.7)
    monkeypatch.setattr("zeropod.lifecycle.standby.nap._runs", lambda pid: trio.current_time() < begun + 0.9)
    await napping(FakeNetwork()).settled()
    assert 0.9 <= trio.current_time() - begun < 1


async def test_one_that_computes_for_ever_is_frozen_all_the_same(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeropod.lifecycle.standby.nap._runs", lambda pid: True)
    begun = trio.current_time()
    await napping(FakeNetwork()).settled()
    assert trio.current_time() - begun == pytest.approx(WORKS, abs=0.06)
