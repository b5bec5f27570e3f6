"""Errors of cgroup operations, with texts that a node's administrator can act on."""

#: Tasks that a FreezeTimeout's message names; the exception itself lists all of them.
_NAMED = 5


class CgroupError(Exception):
    """An operation on a cgroup failed; the message names the cgroup and the kernel's reason."""


class CgroupNotFound(CgroupError):  # noqa: N818 - says what happened
    """The process is gone, or it has no cgroup of its own below any cgroup mount that we can see."""


class FreezeTimeout(CgroupError):  # noqa: N818 - says what happened
    """The cgroup did not become frozen in time and has been thawed again."""

    def __init__(self, cgroup: str, unfrozen: list[str]) -> None:
        self.cgroup = cgroup
        #: The tasks that kept it from freezing, as `Task` prints them; empty if none was found.
        self.unfrozen = unfrozen
        tasks = "; ".join(unfrozen[:_NAMED]) or "no task was seen awake any more"
        if len(unfrozen) > _NAMED:
            tasks += f"; and {len(unfrozen) - _NAMED} more"
        super().__init__(
            f"cgroup {cgroup} did not freeze in time and was thawed: {tasks}"
            " (a task cannot freeze while the kernel waits on its behalf, for a disk, a network file system"
            " or a page server)"
        )
