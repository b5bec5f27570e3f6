"""Records what code runs in a shim whose container sleeps and wakes: src/zeropod/shim/layout.txt.

`./justw layout`, in the test node, whose Python has to be 3.14: it can make another one run a script (PEP 768). The
zygote gets the script, so that it is in the shim from its first instruction on.
"""

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from tests.bench import usage
from tests.bench.many import sleeping, start, wake_one
from tests.integration import node
from tests.integration.cri import Cri
from tests.integration.probes.helpers.probing import probe

LIST = Path("/src/src/zeropod/shim/layout.txt")
PLACE = Path("/run/zeropod-layout")
SLEEPS = 3

BEGIN = """
import gc, sys, types
from zeropod.shim import layout
# The collector has forgotten what is immortal.
things = {id(thing): thing for thing in [*gc.get_objects(), *sys.modules.values()]}
found = list(things.values())
while found:
    found = [thing for thing in gc.get_referents(*found) if things.setdefault(id(thing), None) is None]
    things.update((id(thing), thing) for thing in found)
functions = [thing for thing in things.values() if type(thing) is types.FunctionType]
sys.layout_names = {id(code): name for name, code in layout.named(functions)}
del things, found
sys.layout_ran = set()
def ran(code, _):
    if id(code) in sys.layout_names:
        sys.layout_ran.add(sys.layout_names[id(code)])
    return sys.monitoring.DISABLE
sys.monitoring.use_tool_id(sys.monitoring.PROFILER_ID, "layout")
events = sys.monitoring.events
for event in (events.PY_START, events.PY_RESUME):
    sys.monitoring.register_callback(sys.monitoring.PROFILER_ID, event, ran)
sys.monitoring.set_events(sys.monitoring.PROFILER_ID, events.PY_START | events.PY_RESUME)
"""
END = f"""
import os, sys
with open("{PLACE}/new", "w") as file:
    print(*sorted(sys.layout_ran), sep="\\n", file=file)
os.rename("{PLACE}/new", "{PLACE}/ran")
"""


def main() -> None:
    PLACE.mkdir()
    with Cri() as cri, ExitStack() as stack:
        start(stack, cri)  # for whom the zygote is begun
        node.until(lambda: len(_zygotes()) == 2, "a zygote and its spare", 60)
        zygote = min(_zygotes())
        _run(zygote, BEGIN)
        start(stack, cri)  # whose shim it has forked before: it runs when that is taken
        recorded = start(stack, cri)
        for _ in range(SLEEPS):
            sleeping([recorded])
            time.sleep(2.0)  # for what follows after a sleep
            cri.container_stats(recorded.id)
            wake_one(recorded)
            probe(recorded.pod.ip, "http:80", "tcp:80")
        _run(usage.shim(recorded.pod.id, namespace="k8s.io"), END)
        wake_one(recorded)  # so that it runs something
        node.until(lambda: (PLACE / "ran").exists(), "the shim has written what it has run")
        LIST.write_text((PLACE / "ran").read_text())
    print(f"{len(LIST.read_text().splitlines())} functions")


def _zygotes() -> list[int]:
    return [pid for pid, line in node.processes().items() if line[-1] == "zygote"]


def _run(pid: int, script: str) -> None:
    """Has a Python run a script as soon as it runs anything."""
    path = PLACE / f"{time.monotonic_ns()}.py"
    path.write_text(script)
    os.chmod(path, 0o644)
    if sys.version_info < (3, 14):
        raise SystemExit("layout: needs the node's Python to be 3.14 or newer")
    sys.remote_exec(pid, str(path))


if __name__ == "__main__":
    main()
