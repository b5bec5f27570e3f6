"""Shell completion of `kubectl zeropod`: the program kubectl_complete-zeropod, which kubectl runs at a press of TAB.

Its arguments are the words so far; the last one, perhaps empty, is to be completed. It prints the candidates, one per
line, and then a directive for the shell. It prints no errors, because the shell would show them.
"""

import argparse
import os
from collections.abc import Iterable, Sequence

import trio

from zeropod.cli.kubectl.cluster import Cluster, order
from zeropod.cli.kubectl.kubeconfig import ConfigError
from zeropod.cli.kubectl.login import load, target
from zeropod.cli.kubectl.main import COMMANDS, make_parser
from zeropod.manager.kube.client import open_client
from zeropod.manager.kube.errors import ApiError

NO_FILES = ":4"
FILES = ":0"
NAMESPACE = ("-n", "--namespace")
PATIENCE = 2.0
"""Seconds that a user may wait after TAB."""


def main(arguments: list[str]) -> int:
    words, last = (arguments[:-1], arguments[-1]) if arguments else ([], "")
    try:
        found, directive = suggestions(words, last), NO_FILES
        if words and words[-1] == "--kubeconfig":
            directive = FILES
    except (ConfigError, ApiError, OSError, ExceptionGroup, trio.TooSlowError):
        found, directive = [], NO_FILES
    for each in found:
        print(each)
    print(directive)
    return 0


def suggestions(words: Sequence[str], last: str) -> list[str]:
    """Return the candidates for the last word. Raises ConfigError, ApiError."""
    if not words:
        return _fitting((f"{name}\t{summary}" for name, (summary, _) in COMMANDS.items()), last)
    if words[0] not in COMMANDS:
        return []
    if last.startswith("-"):
        return _fitting(options_of(words[0]), last)
    before = words[-1]
    if before == "--context":
        return _fitting(sorted(load(os.environ, value(words, "--kubeconfig")).contexts), last)
    if before in ("-o", "--output"):
        return _fitting(["json", "wide"] if words[0] == "ps" else ["json"], last)
    if before == "--sort-by":
        return _fitting(["memory", "sleeps", "wakes"], last)
    alone = words[0] in ("dashboard", "doctor") and before not in NAMESPACE
    if before in ("--kubeconfig", "--timeout", "--port", "--to") or alone:
        return []
    found, access = target(os.environ, value(words, "--kubeconfig"), value(words, "--context"))
    namespace = value(words, "-n", "--namespace") or found.namespace

    async def ask() -> list[str]:
        with trio.fail_after(PATIENCE):
            async with open_client(access) as client:
                cluster = Cluster(client, found.prefix, access.host)
                if before in NAMESPACE:
                    return sorted(await cluster.namespaces())
                resources, _ = await cluster.all_in(namespace)
                if before not in ("-c", "--container"):
                    return [order(each)[1] for each in resources if order(each)[1] not in words[1:]]
                containers = (each for each in resources if order(each)[1] in words[1:])
                return sorted(
                    {inner["name"] for each in containers for inner in each["status"].get("containers") or ()}
                )

    return _fitting(trio.run(ask), last)


def options_of(command: str) -> list[str]:
    """Return the long options of a command."""
    commands = next(each for each in make_parser()._actions if isinstance(each, argparse._SubParsersAction))
    return sorted(
        option
        for action in commands.choices[command]._actions
        for option in action.option_strings
        if option.startswith("--")
    )


def value(words: Sequence[str], *names: str) -> str:
    """Return the value of the option with one of these names; empty if it is not given."""
    for place, word in enumerate(words):
        for name in names:
            if word == name and place + 1 < len(words):
                return words[place + 1]
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
    return ""


def _fitting(candidates: Iterable[str], last: str) -> list[str]:
    return [each for each in candidates if each.startswith(last)]
