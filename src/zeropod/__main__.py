"""The entry point of every mode, selected by the program's name or else by the first argument.

Owns the table of modes, and the output of --version and --help.

containerd waits for `start`, so only the selected mode is imported, and this module may import nothing beyond `sys`. It
must not write to stderr on that path either: containerd reads a shim's stdout and stderr as one response.
"""

import sys

from zeropod import KUBECTL_COMPLETION, KUBECTL_PLUGIN, SHIM_BINARY, __version__

# Mode: the module whose `main(arguments) -> status` it is, or module:function, and what it does. A new one is a line.
MODES: dict[str, tuple[str, str]] = {
    "shim": ("zeropod.launch.flags", f"the shim that containerd runs, by the name {SHIM_BINARY}"),
    "ps": ("zeropod.manager.ps", "show this node's containers: awake or asleep, since when, and why"),
    "installer": ("zeropod.installer.main", "bring zeropod to this node, or --uninstall it"),
    "why": ("zeropod.manager.commands:why", "explain what keeps a container awake, and what to do about it"),
    "sleep": ("zeropod.manager.commands:sleep", "put a container to sleep now"),
    "wake": ("zeropod.manager.commands:wake", "wake a container"),
    "hibernate": ("zeropod.manager.hibernate", "leave sleeping containers on disk, to come back after a restart"),
    "manager": ("zeropod.manager.daemon", "serve the metrics of all containers of this node, one for each node"),
    "exporter": (
        "zeropod.manager.exporter",
        "give the manager what containers have left for another node; runs as root",
    ),
    "image-gc": ("zeropod.manager.image_gc", "remove the images of deleted containers, once"),
    "kubectl": (
        "zeropod.cli.kubectl.main",
        f"the plugin that kubectl runs, by the name {KUBECTL_PLUGIN}: ps, why, sleep, wake, migrate, top, doctor",
    ),
    "kubectl-complete": (
        "zeropod.cli.kubectl.completion",
        f"shell completion for kubectl, by the name {KUBECTL_COMPLETION}",
    ),
    "doctor": ("zeropod.manager.doctor", "check whether this node has what zeropod needs"),
    "unpack": ("zeropod.boot.unpack", "unpack now instead of at the first use, so that this is fast, too"),
}

NAMES = {SHIM_BINARY: "shim", KUBECTL_PLUGIN: "kubectl", KUBECTL_COMPLETION: "kubectl-complete"}
"""Modes that are selected by the program's name."""

EXAMPLES = """\
examples:
  zeropod ps                         every container of the runtime on this node
  zeropod ps --watch                 the same, live
  zeropod ps --json                  the same, for programs
  zeropod installer --dry-run        what installing would change on this node
  zeropod why default/web-0/nginx    what keeps this container awake
  zeropod doctor                     what this node can do, and what it lacks
  zeropod manager --listen 0.0.0.0:8080
                                     metrics for Prometheus
  ln -s /opt/zeropod/bin/zeropod /usr/local/bin/containerd-shim-zeropod-v2
                                     let containerd find the shim
  ctr run --runtime io.containerd.zeropod.v2 ...
                                     run a container on it
  ln -s zeropod.pyz ~/bin/kubectl-zeropod && kubectl zeropod ps -A
                                     the containers of a whole cluster
"""


def usage() -> str:
    """Return the text of `zeropod --help`."""
    modes = "\n".join(f"  {name:<18}{summary}" for name, (_, summary) in MODES.items())
    return (
        "zeropod: a containerd shim that puts idle containers to sleep and wakes them on their\n"
        "first connection\n\n"
        "usage: zeropod MODE [ARGUMENT...]\n"
        "       zeropod --version | --help\n\n"
        f"modes:\n{modes}\n\n{EXAMPLES}"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the mode that `argv` (`sys.argv` by default, with the program's name first) selects; return the exit status.

    0 and 1 come from the mode; 2 means that `argv` selects none.
    """
    name, *arguments = sys.argv if argv is None else argv
    if called := NAMES.get(name.rpartition("/")[2]):
        return _run(called, arguments)
    match arguments:
        case ["--version" | "-V", *_]:
            print(f"zeropod {__version__}")
            return 0
        case ["--help" | "-h" | "help", *_]:
            print(usage(), end="")
            return 0
        case []:
            sys.stderr.write(usage())
            return 2
        case [mode, *rest] if mode in MODES:
            return _run(mode, rest)
        case [unknown, *_]:
            known = ", ".join(MODES)
            sys.stderr.write(f"zeropod: no mode {unknown!r}; the modes are {known}. Try: zeropod --help\n")
    return 2


def _run(mode: str, arguments: list[str]) -> int:
    # Only zipimport's loader knows an archive: only when run from zeropod.pyz is there something to unpack. The
    # installer must leave the node unchanged if it is asked to or fails.
    if mode not in ("unpack", "installer") and (archive := getattr(getattr(__spec__, "loader", None), "archive", None)):
        from zeropod.boot import unpack

        unpack.continue_unpacked(archive)
    module, _, function = MODES[mode][0].partition(":")
    # importlib.import_module would do the same, but importing importlib costs `start` a millisecond.
    status: int = getattr(__import__(module, fromlist=["main"]), function or "main")(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
