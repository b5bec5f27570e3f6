"""Checks of processes, threads and namespaces."""

from collections.abc import Iterator

from zeropod.runtime.image.obstacle import Kind, Obstacle
from zeropod.runtime.image.snapshot import Snapshot

_OF_INIT = ("cgroup", "ipc", "net", "pid", "time", "user", "uts")
"""Namespaces in which all processes must be with the first one. Further mount namespaces are dumped."""
_FOR_CHILDREN = (("pid_for_children", "pid"), ("time_for_children", "time"))

_STOPPED = "do_signal_stop"
"""The kernel function in which a stopped process sleeps. Once it is frozen, its state does not show the stop."""


def unreadable(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Report what could not be examined, since it might be anything."""
    for complaint in snapshot.unreadable:
        yield Kind.UNREADABLE.found(complaint)


def states(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find stopped processes (CRIU waits for ever), traced ones, and dead main threads (CRIU has no image of them)."""
    for process in snapshot.processes:
        if process.status.get("TracerPid", "0") != "0":
            yield Kind.TRACED.found(str(process))
        elif process.state in ("T", "t") or process.waits_in == _STOPPED:
            yield Kind.STOPPED.found(str(process))
        if process.state == "Z" and process.status.get("Threads", "1") not in ("0", "1"):
            yield Kind.DEAD_LEADER.found(str(process))
        if process.shares_memory_with in snapshot.pids:
            yield Kind.SHARED_MEMORY_MAP.found(str(process))


def attributes(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find attributes of tasks that CRIU neither dumps nor restores, and `reapplied` does not set again."""
    for process in snapshot.processes:
        if process.personality:
            yield Kind.PERSONALITY.found(f"{process}, {process.personality:#x}")
        for thread in process.threads:
            if thread.own_tables:
                yield Kind.THREAD_PRIVATE.found(f"{process}, thread {thread.tid}: {', '.join(thread.own_tables)}")
    for key in snapshot.keys:
        yield Kind.KEYRING.found(" ".join(key.split()[8:]))


def namespaces(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find namespaces of their own: CRIU dumps those of the first process, of the others only mount namespaces."""
    init, facts = snapshot.init, snapshot.facts
    if facts.pid_namespace is None:
        yield Kind.HOST_PID.found("")
    if init is None:
        return
    if facts.pid_namespace and init.namespaces.get("pid") == snapshot.pid_namespace:
        yield Kind.HOST_PID.found("")
    user = init.namespaces.get("user", "")
    if facts.user_namespace or (snapshot.user_namespace and user and user != snapshot.user_namespace):
        yield Kind.USER_NAMESPACE.found("")
    for process in snapshot.processes:
        if process.state == "Z":
            continue
        own = process.namespaces
        if process.parent not in snapshot.pids and process is not init and own.get("pid") != init.namespaces.get("pid"):
            yield Kind.FOREIGN_MEMBER.found(str(process))
            continue
        different = [kind for kind in _OF_INIT if own.get(kind) != init.namespaces.get(kind)]
        different += [later for later, now in _FOR_CHILDREN if now not in different and own.get(later) != own.get(now)]
        if different:
            yield Kind.NESTED_NAMESPACE.found(f"{process}: {', '.join(different)}")


def strangers(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find foreign processes: those in the pid namespace are killed with it, non-descendants of init are not dumped."""
    for stranger in snapshot.strangers:
        yield Kind.FOREIGN_PROCESS.found(f"process {stranger.pid} ({stranger.name})")
    init = snapshot.init
    for process in snapshot.processes:
        if init is None or process is init or process.parent in snapshot.pids:
            continue
        if process.namespaces.get("pid") == init.namespaces.get("pid") and process.state != "Z":
            yield Kind.OPEN_EXEC.found(str(process))


def sandboxes(snapshot: Snapshot) -> Iterator[Obstacle]:
    """Find restrictions that would be lost. /proc does not show landlock, but its users have no_new_privs set."""
    facts = snapshot.facts
    if facts.seccomp_notify:
        yield Kind.SECCOMP_NOTIFY.found("")
    if facts.no_new_privileges:
        return
    for process in snapshot.processes:
        filters = int(process.status.get("Seccomp_filters", "0"))
        if process.status.get("NoNewPrivs") == "1" and filters <= facts.seccomp:
            yield Kind.LANDLOCK.found(str(process))


CHECKS = (unreadable, states, attributes, namespaces, strangers, sandboxes)
