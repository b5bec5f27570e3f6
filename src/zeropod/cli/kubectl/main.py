"""The command line of `kubectl zeropod`: its options, which are kubectl's, and its exit status."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import trio

from zeropod import __version__
from zeropod.cli.kubectl import dashboard, doctor, migrate, ps, request, top, why
from zeropod.cli.kubectl.cluster import Cluster, CommandError, Nothing, named, words_of
from zeropod.cli.kubectl.kubeconfig import ConfigError, Target
from zeropod.cli.kubectl.login import target
from zeropod.concurrency import leaves
from zeropod.manager.kube.access import Access
from zeropod.manager.kube.client import open_client
from zeropod.manager.kube.errors import ApiError

PROGRAM = "kubectl zeropod"
INTERRUPTED = 130
TIMEOUT = 30.0
MOVES = 300.0
"""Seconds for a pod to move: its grace period may be long."""

COMMANDS = {
    "ps": ("show containers: awake or asleep, since when, and why", ps.run),
    "why": ("explain what keeps a pod awake, and what to do about it", why.run),
    "sleep": ("put a pod's containers to sleep now", request.run),
    "wake": ("wake a pod's containers", request.run),
    "migrate": ("move a pod to its replacement with its memory", migrate.run),
    "doctor": ("tell what is wrong with zeropod in this cluster, and on which node", doctor.run),
    "top": ("show pods by the memory that they have given back", top.run),
    "dashboard": ("serve a page with a time line of each container", dashboard.run),
}

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


class Parser(argparse.ArgumentParser):
    """Exits with status 1 on errors, like kubectl."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"error: {message}\nSee '{self.prog} --help' for usage.\n")


def main(arguments: list[str]) -> int:
    parser = make_parser()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        _complain(f'error: unknown command "{arguments[0]}" for "{PROGRAM}"\n\nRun \'{PROGRAM} --help\' for usage.')
        return 1
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    options.complain = lambda text: _complain(f"error: {text}")
    try:
        return _run(options)
    except (ConfigError, CommandError) as error:
        options.complain(error)
    except Nothing as nothing:
        _complain(str(nothing))
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has gone; nothing may be flushed at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _run(options: argparse.Namespace) -> int:
    names = named(getattr(options, "pods", ()))
    everywhere = getattr(options, "all_namespaces", False)
    if everywhere and names:
        raise CommandError("a resource cannot be retrieved by name across all namespaces")
    found, access = target(os.environ, options.kubeconfig, options.context)
    namespace = "" if everywhere else options.namespace or found.namespace
    try:
        return trio.run(_ask, access, found, options, namespace, names)
    except BaseExceptionGroup as group:
        # Of several errors, the others follow from the first.
        error = next(leaves(group))
        if isinstance(error, ApiError):
            _complain(words_of(error, access.host))
            return 1
        raise error from None
    except ApiError as error:
        _complain(words_of(error, access.host))
        return 1


async def _ask(access: Access, found: Target, options: argparse.Namespace, namespace: str, names: Sequence[str]) -> int:
    async with open_client(access) as client:
        cluster = Cluster(client, found.prefix, access.host, found.context)
        return await COMMANDS[options.command][1](cluster, options, namespace, names)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog=PROGRAM, description="Show a cluster's containers on zeropod, and make them sleep or wake.")
    parser.add_argument("--version", action="version", version=f"zeropod {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, (summary, _) in COMMANDS.items():
        made = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        _add_common(made)
        if name in ("ps", "top", "dashboard"):
            made.add_argument("-A", "--all-namespaces", action="store_true", help="of all namespaces")
        if name == "dashboard":
            made.add_argument("--port", type=_port, default=0, help="of this machine, instead of a free one")
        elif name in ("ps", "top"):
            made.add_argument("pods", nargs="*", metavar="POD", help="only these; all without one")
            made.add_argument("--no-headers", action="store_true", help="print no headings")
        elif name != "doctor":
            made.add_argument("pods", nargs="+", metavar="POD", help="a pod's name, or pod/NAME")
            made.add_argument("-c", "--container", default="", help="only this container; all without it")
        if name in ("ps", "why", "top", "doctor"):
            formats = ("json", "wide") if name == "ps" else ("json",)
            made.add_argument("-o", "--output", type=_format(formats), help=f"{' or '.join(formats)}")
        if name == "ps":
            made.add_argument("-w", "--watch", action="store_true", help="then print every change")
        if name in ("sleep", "wake", "migrate"):
            made.add_argument("--no-wait", action="store_true", help="do not wait for what becomes of it")
        if name in ("sleep", "wake"):
            made.add_argument("--timeout", type=_duration, default=TIMEOUT, help="how long to wait, such as 1m (30s)")
        if name == "migrate":
            made.add_argument("--to", default="", metavar="NODE", help="the node that it is to move to")
            made.add_argument("--timeout", type=_duration, default=MOVES, help="how long to wait, such as 1m (5m)")
        if name == "top":
            made.add_argument("--sort-by", choices=top.SORTS, default="memory", help="what the most is of")
            made.add_argument("--sum", action="store_true", help="print the sum as well")
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--namespace", default="", help="the namespace, if not the context's")
    parser.add_argument("--context", default="", help="the context of kubeconfig, if not the current one")
    parser.add_argument("--kubeconfig", default="", metavar="FILE", help="if not KUBECONFIG, or ~/.kube/config")


def _format(allowed: Sequence[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(
                f'unable to match a printer suitable for the output format "{text}", '
                f"allowed formats are: {','.join(allowed)}"
            )
        return text

    return check


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f'invalid argument "{text}": a port is expected')
    return int(text)


def _duration(text: str) -> float:
    if not (found := _DURATION.fullmatch(text)):
        raise argparse.ArgumentTypeError(f'invalid argument "{text}": a duration such as 30s or 1m is expected')
    return float(found[1]) * _SECONDS[found[2]]


def _complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")
