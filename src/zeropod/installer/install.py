"""Install everything, verified with containerd, or nothing."""

from collections.abc import Callable

from zeropod import __version__
from zeropod.installer import changes, containerd, contents, facts, handler, service
from zeropod.installer.errors import InstallError
from zeropod.installer.facts import Facts
from zeropod.installer.planning import Plan, Source, plan
from zeropod.installer.root import Root
from zeropod.installer.transaction import Transaction

Say = Callable[[str], None]

UNPACKING = 300.0
"""Seconds for zeropod to unpack itself: one or two on an idle node, a minute or two on a very slow one."""


def install(root: Root, found: Facts, install_root: str, source: Source, say: Say, *, links: bool, dry: bool) -> None:
    """Install. Raises InstallError or OSError, after restoring the node."""
    planned = plan(root, found, install_root, source, links=links)
    for note in planned.notes:
        say(f"note: {note}")
    unknown = found.live is not None and handler.NAME not in found.live.handlers
    restarts = planned.configures or unknown
    if dry:
        print(changes.show(planned.changes, install_root), end="")
        say(_announcement(found, restarts) if planned.changes or restarts else "nothing would change")
        return
    if not planned.changes and not restarts:
        say(f"zeropod {__version__} is installed, and containerd knows it: nothing to do")
        return
    making = Transaction(root, install_root).making(planned.changes)
    with service.restarting(root, found.service, say) as restart, making:
        _check(root, install_root, planned, source)
        if restarts:
            restart()
            if found.service.is_automatic:
                containerd.verify(root.outside(found.socket), present=True)
    _conclude(root, found, install_root, planned, restarts, say)


def _check(root: Root, install_root: str, planned: Plan, source: Source) -> None:
    """Check that the installed files work on this node."""
    if planned.needs.python:
        done = root.run([f"{install_root}/bin/python3", "-I", "-S", "-c", facts.IMPORTS], UNPACKING)
        if done.returncode:
            raise InstallError(f"the bundled Python does not run here: {done.stdout.strip()}")
    if source.bundle is not None:
        facts.demand_criu(root, f"{install_root}/bin/criu")
    done = root.run([f"{install_root}/bin/{contents.PROGRAM}", "--version"], UNPACKING)
    if done.returncode:
        raise InstallError(f"zeropod does not run here: {done.stdout.strip()}")


def _conclude(root: Root, found: Facts, install_root: str, planned: Plan, restarts: bool, say: Say) -> None:
    say(f"zeropod {__version__} is in {install_root}: {len(planned.changes)} files changed")
    # Otherwise the first pod waits for it. A failure undoes nothing: zeropod works without.
    try:
        done = root.run([f"{install_root}/bin/{contents.PROGRAM}", "unpack"], UNPACKING)
        failure = (done.stdout.strip() or f"exit status {done.returncode}") if done.returncode else ""
    except InstallError as error:
        failure = str(error)
    if failure:
        say(f"note: zeropod could not unpack itself, and will start slowly: {failure}")
    if not restarts:
        say("containerd's configuration has not changed: nothing was restarted")
    elif found.service.is_automatic:
        say(f"containerd knows the handler {handler.NAME}")
    else:
        say(f"NOT IN EFFECT YET: restart {found.service.name}, then run this again to verify")


def _announcement(found: Facts, restarts: bool) -> str:
    if not restarts:
        return "nothing would be restarted"
    if found.service.by_itself:
        return f"{found.service.name} would restart containerd by itself"
    if found.service.command is None:
        return f"you would have to restart {found.service.name}"
    return f"would restart {found.service.name}"
