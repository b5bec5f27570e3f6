"""What a kernel may lack: eBPF programs, or the hand-over of waiting connections. A container sleeps all the same."""

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration import node
from tests.integration.sleep.helpers import faults, shims
from tests.integration.sleep.helpers.stage import NGINX, REDIS, App, Stage, answers, python

pytestmark = pytest.mark.timeout(60)

MIGRATE = "net/ipv4/tcp_migrate_req"


def unpacked(*parts: str) -> Path:
    """A file of the product as the shims run it."""
    tree = subprocess.run(["zeropod", "unpack"], capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    return Path(tree, *parts)


@contextmanager
def without_ebpf() -> Iterator[None]:
    """The shims that start meanwhile have no program to load, which is as good as a kernel that takes none."""
    program = unpacked("zeropod", "kernel", "lookup.bpf")
    program.rename(program.with_suffix(".away"))
    node.end_zygotes()  # which have read it
    try:
        yield
    finally:
        program.with_suffix(".away").rename(program)
        node.end_zygotes()


@contextmanager
def without_hand_over() -> Iterator[None]:
    """The shims that start meanwhile look for a sysctl that no kernel has.

    Nothing can be mounted over the real one: each network namespace has its own.
    """
    module = unpacked("zeropod", "activator", "network.py")
    compiled = list(module.parent.glob("__pycache__/network.*.pyc"))
    content = module.read_text()
    assert MIGRATE in content
    away = [path.rename(path.with_suffix(".away")) for path in compiled]
    module.write_text(content.replace(MIGRATE, "net/ipv4/there_is_none"))
    node.end_zygotes()  # which have imported the real one
    try:
        yield
    finally:
        module.write_text(content)
        node.end_zygotes()
        for path in module.parent.glob("__pycache__/network.*.pyc"):
            path.unlink()
        for path in away:
            path.rename(path.with_suffix(".pyc"))


def ask(app: App) -> bool:
    with app.connect() as session:
        return answers(session, app.kind)


def test_without_ebpf_it_sleeps_and_wakes_and_says_how(stage: Stage) -> None:
    with without_ebpf():
        app = stage.add(stage.pod("400ms"), REDIS)
        app.asleep()
        assert ask(app)
        assert faults.logged(app, "new connections are not seen by eBPF")


def test_without_ebpf_short_connections_still_keep_it_awake(stage: Stage) -> None:
    with without_ebpf():
        app = stage.add(stage.pod("500ms"), NGINX)
        app.asleep()
        assert ask(app)
        restores = app.status.restores
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            assert ask(app)
            time.sleep(0.1)
        assert app.status.restores == restores
        app.asleep()


def test_where_connections_cannot_be_handed_over_it_stays_in_standby(stage: Stage) -> None:
    with without_hand_over():
        app = stage.add(stage.pod("400ms"), python())
        for _ in range(3):
            shims.until(app.id, lambda status: "connections cannot be handed over" in status.why_kept)
            assert app.state == "STANDBY"
            with ThreadPoolExecutor(20) as clients:
                assert all(clients.map(lambda _: ask(app), range(20)))
        assert faults.logged(app, "connections cannot be handed over")
