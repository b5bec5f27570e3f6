"""The reasons why a container is awake, or not in COLD, each with its text and its remedy. Both are defined only here.

`zeropod ps`, `zeropod why`, the log and the table in the documentation use them. A reason with the details of one case
is an `Explanation`. A second table has remedies for messages of CRIU, runc and the disk budget; where such a message is
part of a reason's text, its remedy takes precedence, being more specific.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from zeropod import paths

if TYPE_CHECKING:
    from collections.abc import Iterator

_DOCTOR = "Run `zeropod doctor` on the node."
_NO_DRY_RUN = "Remove the annotation zeropod.ctrox.dev/dry-run, and create the pod anew."
_HANGS = "One of its processes hangs in the kernel, for example in a network file system: look for state D."


@dataclass(frozen=True, slots=True)
class Explanation:
    """A reason with the details of one case."""

    reason: "Reason"
    text: str
    remedy: str
    """What to do about it; empty if nothing needs to be done."""

    def __str__(self) -> str:
        return self.text


class Reason(Enum):
    """Kind, as `zeropod why` shows it; text, with a placeholder for each detail; remedy."""

    # It never sleeps
    SANDBOX = "setting", "it is the pod's sandbox", "Nothing: it holds the pod's namespaces and never sleeps."
    NOT_SELECTED = (
        "setting",
        "it is not among {0}container-names",
        "Add its name to the annotation, or remove the annotation, and create the pod anew.",
    )
    NO_SCALEDOWN = (
        "setting",
        "{0}scaledown-duration is 0",
        "Set the annotation to a duration such as 10m, and create the pod anew.",
    )
    HOST_NETWORK = (
        "setting",
        "it uses the host's network",
        "Give the pod a network of its own: remove `hostNetwork: true`.",
    )
    USER_NAMESPACE = (
        "setting",
        "it has a user namespace and no pod, whose network namespace it could join",
        "Run it in a pod, whose network namespace it can join: pods with `hostUsers: false` sleep.",
    )
    DRY_RUN = "dry-run", "dry run: it would sleep since {0} UTC", _NO_DRY_RUN
    IN_DRY_RUN = "dry-run", "it is in a dry run, by its annotation dry-run", _NO_DRY_RUN
    BAD_DEFAULT = (
        "setting",
        "a default is not taken, {0} of the {1}: {2}",
        "Correct that annotation of the namespace, or line of zeropod.toml; it is read when a container is created.",
    )
    NEVER = "setting", "it never sleeps"
    DRY_RUN_WOKEN = "dry-run", "dry run: it would have been woken", _NO_DRY_RUN

    # Something inhibits its sleep
    STOPPING = (
        "stop",
        "it is being stopped",
        "Nothing: it is shutting down, which sleep would only interrupt.",
    )
    EXEC = (
        "exec",
        "exec {0} is running",
        "End it, or wait for its end: it may be a shell that was left open, or a probe that hangs.",
    )
    EXEC_OUTPUT = (
        "exec",
        "exec {0} has ended, but a process that it started still has its output open",
        "End that process, or wait for its end. Start processes that should keep running with their output redirected.",
    )
    REQUEST = "request", "a request is under way: {0}"
    PAUSED = "now", "it is paused", "It was paused through containerd: resume it."
    STATE = "now", "it is {0}"

    # It is used
    NOT_LISTENING = (
        "now",
        "nothing in it listens on a TCP port",
        "If it is still starting, wait: it is checked again, at least every ten seconds. A container without a "
        "listener never sleeps, because no connection could wake it.",
    )
    RECENTLY_ACTIVE = "now", "last active at {0} UTC, sleeps {1:g} s after that"
    ANSWER_DUE = (
        "now",
        "it is working on a request",
        "Wait for the answer. If no request is open, find out which of its processes uses the CPU.",
    )
    UNHEALTHY = (
        "now",
        "it fails a health probe: {0}",
        "It could not recover while asleep: check the application's answer to this probe.",
    )

    # Something came while it fell asleep
    ARRIVAL = "now", "a connection or data came at the last moment"
    CONNECTION = "now", "a connection came at the last moment"
    REQUESTED = "now", "a request came at the last moment"
    SOMETHING = "now", "an event arrived at the last moment"
    UNREAD = (
        "now",
        "it has unread input: {0}",
        "Data is unread: the application may be stuck. If the same data is still unread a second later, it sleeps.",
    )
    ENDING = "now", "it is about to end"

    # Something used it while it ran for a probe
    CONNECTION_FROM_NODE = "now", "a connection came from the node while it ran for a probe"
    CONNECTION_BEFORE_NAP = "now", "a connection waited for it as it began to run for a probe"
    CONNECTION_IN_NAP = "now", "a connection came while it ran for a probe"
    USED_IN_NAP = "now", "the connection from {0} port {1} ({2}) was used while it ran for a probe"
    UNREAD_IN_NAP = "now", "input arrived while it ran for a probe: {0}"

    # It cannot be put to sleep
    CANNOT_FREEZE = "error", "it cannot be frozen: {0}", _HANGS
    CANNOT_REFREEZE = "error", "it cannot be frozen again: {0}", _HANGS
    CANNOT_WATCH = "error", "cannot watch its open files: {0}", _DOCTOR
    CANNOT_REDIRECT = "error", "its connections cannot be redirected: {0}", _DOCTOR
    NO_EBPF = "error", "connections cannot be redirected without eBPF, so it is not ended", _DOCTOR
    CANNOT_HAND_OVER = "error", "{0}", _DOCTOR
    DISK = (
        "disk",
        "the disk has too little space for it: {0}",
        f"Free space on the disk of {paths.STATE}, or change the limits in {paths.NODE_CONFIG}.",
    )
    DUMP_FAILED = (
        "error",
        "its checkpoint failed: {0}",
        "See CRIU's log. It sleeps in STANDBY, and COLD is tried again after ten minutes. If CRIU cannot dump it and "
        "its state may be lost, set disable-checkpointing.",
    )
    MEMORY_FAILED = "error", "its memory cannot be prepared for a dump: {0}", _DOCTOR
    FAILED = "error", "its sleep failed"
    UNMANAGED = (
        "error",
        "its sleep cannot be managed: {0}",
        f"{_DOCTOR} The kernel refused what zeropod needs, or there was an unexpected error; the container is awake, "
        "and its sleep is set up anew after a while.",
    )
    LOST = "error", "{0}"

    # It sleeps, but not in COLD
    TOO_RESIDENT = (
        "depth",
        "{0} stay in memory, standby-max-resident is {1}",
        "It goes COLD, unless COLD would lose something. To keep it in STANDBY, raise the annotation.",
    )
    WOULD_LOSE = (
        "depth",
        "stays in STANDBY, since COLD would lose something: {0}",
        "The text has a remedy for each obstacle. The container is examined again every minute.",
    )
    NO_COLD = (
        "depth",
        "stays in STANDBY: {0}",
        "Nothing: its state at that moment did not allow a dump, and COLD is tried again soon.",
    )
    NOT_YET_READ = (
        "depth",
        "it has not read all data of a connection yet",
        "The application leaves data unread: it may be stuck. COLD is tried again every few seconds.",
    )
    NOT_YET_TAKEN = (
        "depth",
        "a peer has not acknowledged all data yet",
        "A client reads slowly or is gone; TCP gives up on it after 15 minutes (`net.ipv4.tcp_retries2` in the pod).",
    )

    # It was to leave, or to come back
    AWAKE = "leave", "it is awake, and may not move while it is: live-migrate does not name it"
    NOT_PORTABLE = (
        "leave",
        "it is COLD, and a part of it is kept here: it may move from the next time on",
        "Wake it, and let it sleep again.",
    )
    CANNOT_LEAVE = "leave", "it cannot leave: {0}"
    CAME = "leave", "something came for it as it was to leave"
    PAGES_TO_COME = (
        "leave",
        "a part of its memory is still on its way from another node",
        "Wait: it sleeps again when all of it is here.",
    )
    LEFT_TOO_LATE = "leave", "the time in which it had to be decided is over"
    STARTED_ANEW = (
        "leave",
        "it was started anew, without its memory from before: {0}",
        "Nothing: what it had in memory is gone. The reason says what to look at.",
    )

    # Its memory
    MEMORY_BACKEND = "memory", "{0}"
    MEMORY_STAYS = (
        "memory",
        "its memory stays: {0}",
        "Run `zeropod doctor` on the node: it shows which memory backends the node supports.",
    )

    # What this kernel lacks
    KERNEL = "kernel", "{0}", _DOCTOR

    def __init__(self, kind: str, text: str, remedy: str = "") -> None:
        self.kind = kind
        self.text = text
        self.remedy = remedy

    def because(self, *details: object) -> Explanation:
        """Return the explanation with these details filled into the text.

        The remedy of a detail that is an explanation, or an exception with one, takes precedence over the reason's own;
        so does the remedy of a known message of another program in the text.
        """
        filled = self.text.format(*details)
        return Explanation(self, filled, next(_remedies(details, filled), self.remedy))


def _remedies(details: tuple[object, ...], text: str) -> "Iterator[str]":
    for detail in details:
        inner = getattr(detail, "explanation", detail)
        if isinstance(inner, Explanation) and inner.remedy:
            yield inner.remedy
    yield from (remedy for words, remedy in KNOWN_MESSAGES if words in text)


KNOWN_MESSAGES = (
    ("Can't get rlimit", "Give containerd CAP_SYS_RESOURCE; `zeropod doctor` says whether it has it."),
    ("executable file not found", "Install CRIU 4.2 or newer on the node; `zeropod doctor` looks for it."),
    ("max-checkpoint-bytes", f"Raise it in {paths.NODE_CONFIG}, or let fewer containers sleep on this node."),
    ("min-free-bytes", f"Free space on the disk of {paths.STATE}, or lower it in {paths.NODE_CONFIG}."),
)
"""Messages of CRIU, runc and the disk budget, and what to do about each; the first match counts."""


def table() -> str:
    """Return all reasons that have a remedy as a table in Markdown, for the documentation."""
    rows = [
        f"| {_cell(reason.text)} | {reason.remedy} |" for reason in Reason if reason.remedy and reason.text != "{0}"
    ]
    rows += [f"| … {words} … | {remedy} |" for words, remedy in KNOWN_MESSAGES]
    return "\n".join(("| `zeropod why` says | what to do |", "|---|---|", *rows, ""))


def _cell(template: str) -> str:
    return template.replace("{1:g}", "…").format(*["…"] * 3)
