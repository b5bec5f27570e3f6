"""`./justw demo`: a redis and an nginx in pods of their own go to sleep and come back, as a live timeline.

Runs as root inside the test node. Leaves nothing behind, and ends in bounded time, with status 0 if all that was to be
shown was seen, with 1 if anything did not hold, with 130 on Ctrl-C.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.demo.plan import STANDBY_DURATION, Plan
from tests.demo.results import Results
from tests.demo.show import Show
from tests.demo.story import Story
from tests.demo.watch import Watch, Watched
from tests.demo.words import milliseconds
from tests.integration.cri import Cri
from tests.integration.endpoint import ADDRESS, Refused

LIMIT, LIMIT_OF_A_ROUND = 30, 15
"""Seconds for the story, without the taking down; it takes about a third of that."""

SCALEDOWN = "zeropod.ctrox.dev/scaledown-duration"
STANDBY = "zeropod.ctrox.dev/standby-duration"


def main(arguments: list[str]) -> int:
    plan, plain = _arguments(arguments)
    if not os.path.exists(ADDRESS):
        sys.stderr.write("demo: there is no containerd here; run it with ./justw demo\n")
        return 2
    show, results = Show(plain=plain), Results()
    try:
        with _limit(LIMIT + LIMIT_OF_A_ROUND * len(plan)):
            _run(plan, show, results)
    except KeyboardInterrupt:
        show.event("demo", "STOP", "interrupted; everything was taken down")
        return 130
    except (OSError, ValueError, RuntimeError, Refused, AssertionError) as error:
        results.failures.append(f"{type(error).__name__}: {error}")
        for note in (str(error), *getattr(error, "__notes__", ())):
            show.event("demo", "FAIL", note)
    show.console.print(results.summary())
    return 1 if results.failures else 0


def _arguments(arguments: list[str]) -> tuple[Plan, bool]:
    parser = argparse.ArgumentParser(prog="./justw demo", description="Two pods fall asleep and wake up.")
    add = parser.add_argument
    add("--standby", type=int, default=3, help="how often they are woken from STANDBY (default: %(default)s)")
    add("--cold", type=int, default=1, help="how often from COLD, after that (default: %(default)s)")
    add("--megabytes", type=int, default=50, help="how much redis holds (default: %(default)s)")
    add("--idle", type=float, default=1.5, help="seconds until they sleep (default: %(default)s)")
    add("--plain", action="store_true", help="one line an event, in a terminal too")
    options = parser.parse_args(arguments)
    least = min(options.standby, options.cold, options.standby + options.cold - 1)
    if least < 0 or min(options.megabytes, options.idle) <= 0:
        parser.error("--megabytes, --idle, and --standby or --cold are greater than 0")
    return Plan(options.standby, options.cold, options.megabytes, options.idle), options.plain


def _run(plan: Plan, show: Show, results: Results) -> None:
    show.event("demo", "START", _machine())
    with ExitStack() as stack:
        cri = stack.enter_context(Cri())
        redis, nginx = (_start(stack, cri, name, plan, show) for name in ("redis", "nginx"))
        watch = Watch([redis, nginx])
        with watch.running(), show.watching(watch):
            Story(plan, watch, redis, nginx, show, results).tell()
        began = time.perf_counter()
    show.event("demo", "END", f"pods removed in {milliseconds(time.perf_counter() - began)}")


def _start(stack: ExitStack, cri: Cri, name: str, plan: Plan, show: Show) -> Watched:
    annotations = {SCALEDOWN: f"{plan.idle}s", STANDBY: f"{STANDBY_DURATION}s"}
    began = time.perf_counter()
    pod = stack.enter_context(cri.pod(name=name, annotations=annotations))
    container = pod.container(name, f"localhost/{name}:test")
    runs_after = milliseconds(time.perf_counter() - began)
    sleeps = f"STANDBY after {plan.idle:g} s without traffic, COLD after {STANDBY_DURATION:g} s more"
    show.event(name, "START", f"pod {pod.ip} runs after {runs_after}; {sleeps}")
    return Watched(name, container)


def _machine() -> str:
    """`Linux 6.18.5, 2 CPUs, containerd 2.1.9, runc 1.3.6, criu 4.2.1`."""
    parts = [f"Linux {os.uname().release}", f"{os.cpu_count()} CPUs"]
    for program in ("containerd", "runc", "criu"):
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
        version = re.search(r"\d+\.\d+[\w.]*", done.stdout)
        parts.append(f"{program} {version[0] if version else '?'}")
    return ", ".join(parts)


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the block when it takes longer."""

    def expired(*_: object) -> None:
        raise TimeoutError(f"the demo is not through after {seconds} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
