"""``tests/node/enter [--applications | --containerd-1.7 | --vm [--timeout SECONDS]] [CMD...]``: run a command (a shell
if none) in a fresh test node.

``--applications`` adds the images of the compatibility suite, which a machine always has; ``--containerd-1.7`` has the
node run that one instead of 2.x.

The exit status is the command's; 125 when there was no node to run it in; 128 + N when signal N ended it.
"""

import os
import sys

from tests.node.cache import NodeError, say
from tests.node.run import Signalled, run_in_node, signals_raise
from tests.node.vm.run import run_in_machine

NO_NODE = 125
LONGEST = 5400.0
"""Seconds that a command in a machine may take unless --timeout says otherwise."""


def main(arguments: list[str]) -> int:
    """Run the command of the arguments in a node and return the exit status."""
    if os.geteuid() != 0:
        say("a node is made of namespaces and cgroups: run this as root")
        return NO_NODE
    signals_raise()
    try:
        match arguments:
            case ["--vm", "--timeout", seconds, *command]:
                return run_in_machine(command or ["bash"], float(seconds))
            case ["--vm", *command]:
                return run_in_machine(command or ["bash"], LONGEST)
            case ["--applications", *command]:
                return run_in_node(command or ["bash"], with_applications=True)
            case ["--containerd-1.7", *command]:
                os.environ["ZEROPOD_NODE_CONTAINERD"] = "1.7"
                return run_in_node(command or ["bash"])
            case command:
                return run_in_node(command or ["bash"])
    except NodeError as error:
        say(str(error))
        return NO_NODE
    except Signalled as ended:
        return 128 + ended.number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
