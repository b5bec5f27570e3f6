"""From STANDBY with the memory in the page store to COLD and back: a small image, and every byte right."""

import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration.conftest import OURS
from tests.integration.containerd import Container, Containerd
from tests.integration.sleep.helpers.shims import until, until_state

from zeropod.kernel import namespace
from zeropod.rpc.messages.status_pb2 import State

MEBIBYTE = 1 << 20
KEYS = 60_000
"""Of a kilobyte each."""

ANNOTATIONS = {
    "zeropod.ctrox.dev/scaledown-duration": "300ms",
    "zeropod.ctrox.dev/standby-duration": "1s",
    "zeropod.ctrox.dev/standby-memory": "store",
}
AT_ONCE = {
    "zeropod.ctrox.dev/scaledown-duration": "300ms",
    "zeropod.ctrox.dev/standby": "false",
    "zeropod.ctrox.dev/standby-memory": "swap",
}
"""Nothing goes to swap on the way to COLD: a dump would read it back."""
REDIS = ("redis-server", "--save", "", "--protected-mode", "no", "--enable-debug-command", "yes")


class Redis:
    """A redis in a container, asked in its own network."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self._network = os.open(f"/proc/{container.get().pid}/ns/net", os.O_RDONLY)

    def ask(self, *words: object) -> str:
        """Return the first line of the answer."""
        with namespace.entered(self._network):
            connection = socket.create_connection(("127.0.0.1", 6379), timeout=60)
        with connection, connection.makefile("rwb") as stream:
            stream.write((" ".join(map(str, words)) + "\r\n").encode())
            stream.flush()
            line: bytes = stream.readline()
        return line.decode().strip()

    def close(self) -> None:
        os.close(self._network)


@contextmanager
def redis(containerd: Containerd, annotations: Mapping[str, str] = ANNOTATIONS) -> Iterator[Redis]:
    with containerd.container(*REDIS, runtime=OURS, image="localhost/redis:test", annotations=annotations) as container:
        container.run()
        found = Redis(container)
        try:
            _up(found)
            assert found.ask("DEBUG POPULATE", KEYS, "key 1000") == "+OK"
            yield found
        finally:
            found.close()


def _up(found: Redis) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            assert found.ask("PING") == "+PONG"
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def pagers() -> set[int]:
    """Return the processes that are pagers, and live."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if "(zeropod-pager) Z" not in (stat := path.read_text()) and "(zeropod-pager)" in stat:
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.timeout(180)
@pytest.mark.parametrize("annotations", [ANNOTATIONS, AT_ONCE], ids=["later", "at once"])
def test_what_is_in_the_store_is_not_in_the_image_and_every_value_is_right(
    containerd: Containerd, annotations: Mapping[str, str]
) -> None:
    with redis(containerd, annotations) as found:
        digest = found.ask("DEBUG DIGEST")
        for number in range(4):
            until_state(found.container.id, "COLD", 60)
            status = until(found.container.id, lambda status: status.image_bytes, "with an image")
            assert status.image_bytes < 20 * MEBIBYTE, "the dump took what is in the store along"
            assert found.ask("DEBUG DIGEST") == digest
            assert found.ask("SET", f"more:{number}", number) == "+OK"
            digest = found.ask("DEBUG DIGEST")


@pytest.mark.timeout(180)
def test_a_pager_that_dies_after_the_restore_is_replaced(containerd: Containerd) -> None:
    with redis(containerd) as found:
        digest = found.ask("DEBUG DIGEST")
        others = pagers()
        until_state(found.container.id, "COLD", 60)
        assert pagers() <= others, "a pager of processes that are gone"
        assert found.ask("PING") == "+PONG"
        ours = pagers() - others
        assert ours
        for pid in ours:
            os.kill(pid, signal.SIGKILL)
        assert found.ask("DEBUG DIGEST") == digest


@pytest.mark.timeout(180)
def test_a_store_that_was_damaged_is_a_reported_exit_and_its_image_is_kept(containerd: Containerd) -> None:
    with redis(containerd) as found:
        status = until_state(found.container.id, "COLD", 60)
        directory = Path("/var/lib/zeropod/containers") / status.namespace / found.container.id / "store" / "pages"
        for file in directory.glob("pages-*"):
            os.truncate(file, 4096)
        with pytest.raises((OSError, AssertionError)):
            assert found.ask("DEBUG DIGEST").startswith("+"), "an answer from memory that is not there"
        until(found.container.id, lambda status: status.state == State.STOPPED, "stopped", 60)
