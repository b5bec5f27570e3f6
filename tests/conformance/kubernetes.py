"""``python3 -m tests.conformance.kubernetes [--focus REGEX] [--skip REGEX]``:
Kubernetes' own tests, run in a cluster's node.

They run with runc as containerd's default handler, then with zeropod and a short scaledown-duration: `./justw
conformance`. The exit status is 1 if a test that passes with runc does not with zeropod. What came of each test is
written to build/results/conformance.json, from which docs/conformance.py makes a page.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.cluster import components, pki, services
from tests.cluster.kube import Api
from tests.conformance import handlers, programs, results
from tests.conformance.results import Results
from tests.node.cache import say

FOCUS = r"\[sig-node\].*\[(NodeConformance|Conformance)\]"
PROCESSES = 16
LONGEST = 3600.0
"""Seconds for one run of the suite."""
RECORD = Path("/src/build/results/conformance.json")
LOGS = Path("/src/build/results/conformance")
INSTALLED = Path("/etc/containerd/conf.d/zeropod.toml")
SLEPT = re.compile(r"sleeps \(STANDBY\)")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--focus", default=FOCUS)
    parser.add_argument("--skip", default="")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--handler", action="append", help="with these alone; nothing is recorded")
    options = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    shim = json.loads(re.findall(r"^\s*runtime_path = (.*)$", INSTALLED.read_text(), re.MULTILINE)[0])
    found: dict[str, Results] = {}
    slept = 0
    for name in options.handler or (handlers.REFERENCE, handlers.ASLEEP):
        handlers.configure(shim, name)
        services.restart(services.CONTAINERD)
        said = components.RUN / "containerd.log"
        before = len(SLEPT.findall(said.read_text(errors="replace")))
        say(f"runs e2e.test with {name}")
        found[name] = suite(name, options.focus, options.skip, options.processes)
        slept = len(SLEPT.findall(said.read_text(errors="replace"))) - before
        (LOGS / f"{name}-containerd.log").write_bytes(said.read_bytes())
        say(f"{name}: {results.counts(found[name])}; containers fell asleep {slept} times")
    if options.handler:
        return 0
    reference, ours = found[handlers.REFERENCE], found[handlers.ASLEEP]
    record({"focus": options.focus, "skip": options.skip, "slept": slept}, reference, ours)
    worse = results.worse(ours, reference)
    for test, how in worse.items():
        say(f"worse with zeropod: {test}: {how}")
    return int(bool(worse))


def suite(handler: str, focus: str, skip: str, processes: int) -> Results:
    """What Kubernetes' tests say of the cluster as it is."""
    arguments = ["--provider=skeleton", f"--kubeconfig={pki.ADMIN}", "--minStartupPods=0", "--num-nodes=1"]
    return results.run(
        Path(os.environ[programs.VARIABLE]),
        "e2e.test",
        processes,
        [f"--focus={focus}", *([f"--skip={skip}"] if skip else [])],
        arguments,
        LOGS / f"{handler}.log",
        LONGEST,
    )


def record(run: Mapping[str, object], reference: Results, ours: Results) -> None:
    """Write what has been seen, and in which run, for the page of it."""
    with Api() as api:
        node = api.get("nodes", components.name_of(1))["status"]["nodeInfo"]
    tests = {
        name: {"runc": result.state, "zeropod": ours[name].state if name in ours else "is missing"}
        for name, result in sorted(reference.items())
        if result.has_run
    }
    facts = {
        "kubernetes": node["kubeletVersion"],
        "containerd": node["containerRuntimeVersion"].removeprefix("containerd://"),
        "kernel": node["kernelVersion"],
        "scaledown": handlers.SCALEDOWN,
        "tests": tests,
        **run,
    }
    RECORD.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
