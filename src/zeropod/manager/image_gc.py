"""`zeropod image-gc`: removes images of containers that do not exist any more, once, and ends.

A reboot leaves such images behind, and so does a shim that could not clean up after itself. It runs as root, since
images are root's, and therefore opens no network socket: `zeropod manager`, which does, needs none of its rights. It
also makes the directories of sockets accessible to the manager, and sets the node's limits for the shims.
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from zeropod import paths
from zeropod.runtime import budget, node_config
from zeropod.runtime.quantity import quantity

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    given = {key: getattr(options, key.replace("-", "_")) for key in node_config.KEYS}
    try:
        run = Path(paths.STATUS_SOCKETS).parent
        paths.make_private(run)
        run.chmod(0o700)  # a kubelet that mounts it has created it readable for all users
        paths.open_to_manager(paths.STATUS_SOCKETS)
        paths.give_to_manager(paths.MANAGER_SOCKETS)
        node_config.override({key: value for key, value in given.items() if value is not None})
        for key, size in budget.collect_orphans(_existing):
            name = "/".join(filter(None, key))
            log.warning("removed the image of %s, %.1f MB: the container does not exist", name, size / 1e6)
    except OSError as error:
        hint = ": run it as root" if isinstance(error, PermissionError) else ""
        sys.stderr.write(f"zeropod image-gc: {error.filename or paths.CONTAINERS}: {error.strerror}{hint}\n")
        return 1
    return 0


def _existing() -> frozenset[budget.Key]:
    """Return all containers that a shim, alive or dead, has not removed yet: none after a reboot."""
    return frozenset(_listed())


def _listed() -> Iterator[budget.Key]:
    yield from ((entry.parts[-3], entry.name) for entry in paths.PODS.glob("*/*/*"))
    # A shim of an older version lists its containers one directory higher, without the namespace.
    yield from (("", entry.name) for entry in paths.PODS.glob("*/*") if not entry.is_dir())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zeropod image-gc", description=__doc__)
    parser.add_argument(
        "--max-checkpoint-bytes",
        type=_quantity,
        metavar="QUANTITY",
        help="bytes that all images of this node may take on disk together, such as 20Gi; "
        f"overrides {paths.NODE_CONFIG} until this is run without it, or the node restarts",
    )
    parser.add_argument(
        "--min-free-bytes",
        type=_quantity,
        metavar="QUANTITY",
        help="bytes that must stay free on their disk (default: 256Mi); likewise",
    )
    return parser


def _quantity(text: str) -> int:
    try:
        return quantity(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {error}") from None
