"""``tests/node/enter [--applications] [--suite] [--containerd-1.7] [--oldest] [--cluster [NODES]] [CMD...]`` or
``tests/node/enter --vm [--timeout SECONDS] [--containerd-1.7] [CMD...]``: run a command (a shell if none) in a fresh
test node.

``--applications`` adds the images of the compatibility suite, which a machine always has; ``--containerd-1.7`` has the
node run that one instead of 2.x. ``--cluster`` makes it the first of one or two nodes of a Kubernetes, which has
zeropod installed as users install it (tests/cluster); ``--oldest`` takes the oldest Kubernetes that is tested.
``--suite`` adds a conformance suite with its images: Kubernetes' to a cluster, else the CRI's (tests/conformance).

The exit status is the command's; 125 when there was no node to run it in; 128 + N when signal N ended it.
"""

import argparse
import os
import sys
from itertools import takewhile

from tests.node import kubernetes
from tests.node.cache import NodeError, say
from tests.node.run import Signalled, run_in_node, signals_raise
from tests.node.vm.run import run_in_machine

NO_NODE = 125
LONGEST = 5400.0
"""Seconds that a command in a machine may take unless --timeout says otherwise."""


def chosen(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """What is asked of the node, and the command, whose own options are none of ours."""
    parser = argparse.ArgumentParser(prog="tests/node/enter", description=__doc__, allow_abbrev=False)
    parser.add_argument("--applications", action="store_true")
    parser.add_argument("--containerd-1.7", dest="older", action="store_true")
    parser.add_argument("--suite", action="store_true")
    parser.add_argument("--oldest", action="store_true")
    parser.add_argument("--vm", action="store_true")
    parser.add_argument("--timeout", type=float, default=LONGEST)
    parser.add_argument("--cluster", type=int, choices=(1, 2), default=0)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(_with_number(arguments))
    return options, options.command or ["bash"]


def _with_number(arguments: list[str]) -> list[str]:
    """The arguments with the number of nodes that `--cluster` leaves out before a command."""
    ours = list(takewhile(lambda argument: argument.startswith("-"), arguments))
    if "--cluster" not in ours or (rest := arguments[len(ours) :])[:1] in (["1"], ["2"]):
        return arguments
    at = ours.index("--cluster") + 1
    return [*ours[:at], "1", *ours[at:], *rest]


def main(arguments: list[str]) -> int:
    """Run the command of the arguments in a node and return the exit status."""
    if os.geteuid() != 0:
        say("a node is made of namespaces and cgroups: run this as root")
        return NO_NODE
    signals_raise()
    options, command = chosen(arguments)
    try:
        if options.vm:
            return run_in_machine(command, options.timeout, with_older=options.older)
        if options.older:
            os.environ["ZEROPOD_NODE_CONTAINERD"] = "1.7"
        return run_in_node(
            command,
            with_applications=options.applications,
            cluster=options.cluster,
            source=kubernetes.OLDEST if options.oldest else kubernetes.SOURCE,
            suite=options.suite,
        )
    except NodeError as error:
        say(str(error))
        return NO_NODE
    except Signalled as ended:
        return 128 + ended.number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
