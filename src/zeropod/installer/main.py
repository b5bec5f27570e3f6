"""The command line of `zeropod installer`."""

import argparse
import os
import signal
import sys

from zeropod import paths
from zeropod.installer import contents, facts, record, service, uninstall
from zeropod.installer.distributions import NAMES, detect
from zeropod.installer.errors import InstallError
from zeropod.installer.install import install
from zeropod.installer.planning import Source
from zeropod.installer.root import Root
from zeropod.installer.transaction import Transaction

DESCRIPTION = """\
Brings zeropod to this node, makes it a handler of containerd's, and verifies that with containerd itself. Running it
again changes only what differs. A failure leaves the node as it was.
"""


def main(arguments: list[str]) -> int:
    """Run the installer. Returns 0 on success; 1 with the reason on stderr if something is in the way, and then nothing
    has changed."""
    options = parser().parse_args(arguments)
    if os.geteuid() != 0 and not options.dry_run:
        return _complain("only root may change the node: run it with sudo")
    # If a kubelet ends this process, everything is undone first, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _run(options)
    except InstallError as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(f"{error.filename or 'the node'}: {error.strerror or error}")
    except KeyboardInterrupt:
        return _complain("interrupted")
    return 0


def _complain(text: str) -> int:
    sys.stderr.write(f"zeropod installer: {text}\n")
    return 1


def _say(text: str) -> None:
    print(text, flush=True)


def _run(options: argparse.Namespace) -> None:
    root = Root(options.host_root)
    install_root = (options.install_root or detect(root.exists, options.distribution).install_root).rstrip("/")
    if not options.dry_run and Transaction(root, install_root).undo():
        _say("an earlier run was interrupted; what it had changed is undone")
    if options.uninstall:
        _uninstall(root, install_root, options)
        return
    found = facts.gather(
        root,
        distribution=options.distribution,
        config=options.containerd_config,
        socket=options.containerd_socket,
        command=options.restart_command,
    )
    _say(f"{found.distribution.name}, containerd {found.live.version if found.live else 'not running'}, {found.config}")
    source = Source(_own_archive(), options.bundle or _own_bundle(), options.python, options.node_config)
    links = found.distribution.links and not options.no_links and root.exists(contents.LINKS)
    install(root, found, install_root, source, _say, links=links, dry=options.dry_run)


def _uninstall(root: Root, install_root: str, options: argparse.Namespace) -> None:
    place = f"{install_root}/{record.PLACE}"
    known = record.read(root.look(place), place)
    if known is None:
        _say(f"nothing is installed in {install_root}")
        return
    distribution = detect(root.exists, known.distribution)
    restarter = service.find(root, distribution, options.restart_command)
    uninstall.uninstall(root, known, install_root, restarter, _say, force=options.force, dry=options.dry_run)


def _own_archive() -> str:
    """Return the path of this zeropod.pyz, which passes its own path on as the program's name."""
    archive = os.path.realpath(sys.argv[0])
    if not os.path.isfile(archive):
        raise InstallError(f"{archive} is not zeropod.pyz: run the installer by its path")
    return archive


def _own_bundle() -> str | None:
    """Return the bundle that contains this archive, as in the node image; None if there is none."""
    bundle = os.path.dirname(os.path.dirname(os.path.realpath(sys.argv[0])))
    return bundle if os.path.exists(f"{bundle}/bundle.json") else None


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options; the manifests use them, too."""
    made = argparse.ArgumentParser(prog="zeropod installer", description=DESCRIPTION)
    made.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    made.add_argument("--uninstall", action="store_true", help="take everything away and restore the node")
    made.add_argument("--force", action="store_true", help="uninstall although containers use the runtime")
    made.add_argument("--bundle", metavar="DIR", help="CRIU and Python with their libraries (installer/bundle.py)")
    made.add_argument("--python", choices=("auto", "bundled"), default="auto",
                        help="bundled: the bundle's Python, even where the node has one")  # fmt: skip
    made.add_argument("--node-config", metavar="FILE", help="what the node's zeropod.toml is to be")
    made.add_argument("--distribution", choices=NAMES, help="what the node is, if it cannot be told")
    made.add_argument("--host-root", metavar="DIR", default="/", help="where the node's root is mounted")
    made.add_argument("--install-root", metavar="DIR",
                        help=f"where to install on the node; {paths.INSTALL_ROOT} on most")  # fmt: skip
    made.add_argument("--containerd-config", metavar="FILE", help="the configuration that containerd reads")
    made.add_argument("--containerd-socket", metavar="SOCKET", help="where containerd listens")
    made.add_argument("--restart-command", metavar="COMMAND", help="a shell command that restarts containerd")
    made.add_argument("--no-links", action="store_true", help=f"make no links in {contents.LINKS}")
    return made
