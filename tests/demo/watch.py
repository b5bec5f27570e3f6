"""What the node says about the demo's containers, from two independent sides: `zeropod ps` and the kernel.

`zeropod ps --json --watch` tells states and durations, `usage` what they take of the node.
"""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.demo.usage import NOTHING, Usage, image_size, look
from tests.integration.cri import Container

SAMPLE = 0.2
"""Seconds between two looks at what they take."""


@dataclass(frozen=True, slots=True)
class Status:
    """A line of `zeropod ps`; durations in milliseconds, `since` in Unix seconds."""

    state: str
    pid: int
    """Of the init process; 0 where there is none."""
    since: float
    slept_in: float
    woke_in: float
    sleeps: int
    wakes: int
    why: str


@dataclass(slots=True)
class Watched:
    """A container under watch."""

    name: str
    container: Container
    status: Status | None = None
    """The last one; None before the first."""
    usage: Usage = NOTHING
    history: list[Usage] = field(default_factory=list)
    """A sample every SAMPLE seconds."""

    @property
    def image_size(self) -> int:
        """Bytes of its checkpoint on disk."""
        return image_size(self.container.id)

    def look(self) -> Usage:
        """What it takes now."""
        return look(self.container.id)


class Watch:
    """Both looks, kept up to date by two threads."""

    def __init__(self, watched: list[Watched]) -> None:
        self.watched = watched
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._problem = ""

    def wait(self, who: Watched, what: str, met: Callable[[Status], bool], timeout: float) -> Status:
        """The first status that meets the condition, put in words by `what`. Raises TimeoutError, RuntimeError."""

        def there() -> bool:
            return bool(self._problem) or (who.status is not None and met(who.status))

        with self._changed:
            if not self._changed.wait_for(there, timeout):
                last = f"{who.status.state} ({who.status.why})" if who.status else "not listed by `zeropod ps`"
                raise TimeoutError(f"{who.name} is not {what} after {timeout:g} s, but {last}")
            if self._problem or who.status is None:
                raise RuntimeError(self._problem)
            return who.status

    def _follow(self, listing: "subprocess.Popen[str]") -> None:
        assert listing.stdout
        assert listing.stderr
        for line in listing.stdout:
            rows = {row["id"]: row for row in json.loads(line)}
            with self._changed:
                for who in self.watched:
                    if row := rows.get(who.container.id):
                        who.status = _status(row)
                self._changed.notify_all()
        if not self._ended.is_set():
            with self._changed:
                self._problem = f"`zeropod ps --watch` has ended: {listing.stderr.read().strip()}"
                self._changed.notify_all()

    def _sample(self) -> None:
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due += SAMPLE
            for who in self.watched:
                who.usage = who.look()
                who.history.append(who.usage)

    @contextmanager
    def running(self) -> Iterator[None]:
        command = ["zeropod", "ps", "--json", "--watch"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True) as listing:
            threads = [threading.Thread(target=self._follow, args=(listing,)), threading.Thread(target=self._sample)]
            try:
                for thread in threads:
                    thread.start()
                yield
            finally:
                self._ended.set()
                listing.terminate()
                for thread in threads:
                    thread.join()


def _status(row: dict[str, object]) -> Status:
    def number(key: str) -> float:
        value = row[key]
        return float(value) if isinstance(value, int | float) else 0.0

    return Status(
        state=str(row["state"]),
        pid=int(number("pid")),
        since=number("since"),
        slept_in=number("last_checkpoint_ms"),
        woke_in=number("last_restore_ms"),
        sleeps=int(number("checkpoints")),
        wakes=int(number("restores")),
        why=str(row["why"] or ""),
    )
