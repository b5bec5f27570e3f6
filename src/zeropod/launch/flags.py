"""containerd's command line of the shim binary: flags first, then an action.

    containerd-shim-zeropod-v2 -namespace NS -address SOCKET -publish-binary PATH -id ID [-bundle DIR] [-debug] start
    containerd-shim-zeropod-v2 … delete
    containerd-shim-zeropod-v2 -info | -v

containerd waits for `start`, so each action is a module of its own, and only that one is imported.
"""

import sys

ACTIONS = {
    "start": "zeropod.launch.start",
    "delete": "zeropod.shim.delete",
    "info": "zeropod.shim.info",
    "serve": "zeropod.shim.serve",
    "zygote": "zeropod.zygote.server",
}
"""For each action, the module whose `main(flags) -> status` carries it out."""

_WITH_VALUE = ("namespace", "address", "publish-binary", "id", "bundle", "socket")


class Flags:
    """containerd's flags, and the unparsed arguments."""

    # Not a dataclass: importing that takes longer than all of `start`.
    __slots__ = ("address", "arguments", "bundle", "debug", "id", "namespace", "publish_binary")

    def __init__(
        self,
        *,
        namespace: str = "",
        address: str = "",
        publish_binary: str = "",
        id: str = "",
        bundle: str = "",
        debug: bool = False,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.namespace = namespace
        self.address = address
        self.publish_binary = publish_binary
        """The path of containerd itself."""
        self.id = id
        self.bundle = bundle
        self.debug = debug
        self.arguments = arguments


class UsageError(Exception):
    """The arguments are not what containerd passes to a shim."""


def parse(arguments: list[str]) -> tuple[str, Flags]:
    """Return the action and its flags, in the syntax of Go's flag package. Raises UsageError."""
    values: dict[str, str] = {}
    switches: set[str] = set()
    rest = iter(arguments)
    action = ""
    for argument in rest:
        if not argument.startswith("-"):
            action = argument
            break
        name, equals, value = argument.lstrip("-").partition("=")
        if name in _WITH_VALUE:
            values[name] = value if equals else next(rest, "")
        elif name in ("debug", "info", "v"):
            switches.add(name)
        else:
            raise UsageError(f"flag {argument} is unknown")
    if "v" in switches:
        return "version", Flags()
    if "info" in switches:
        action = "info"
    if action not in ACTIONS:
        raise UsageError(f"{action or 'nothing'} is not an action: one of {', '.join(sorted(ACTIONS))}")
    if action not in ("info", "zygote") and not (values.get("namespace") and values.get("id")):
        raise UsageError(f"{action} needs -namespace and -id")
    return action, Flags(
        namespace=values.get("namespace", ""),
        address=values.get("address", ""),
        publish_binary=values.get("publish-binary", ""),
        id=values.get("id", ""),
        bundle=values.get("bundle", ""),
        debug="debug" in switches,
        arguments=tuple(arguments),
    )


def main(arguments: list[str]) -> int:
    try:
        action, flags = parse(arguments)
    except UsageError as error:
        sys.stderr.write(f"containerd-shim-zeropod-v2: {error}; it is started by containerd, not by hand\n")
        return 2
    if action == "version":
        from zeropod import __version__

        print(f"containerd-shim-zeropod-v2 {__version__}")
        return 0
    # Not importlib.import_module: importing importlib costs `start` a millisecond.
    status: int = __import__(ACTIONS[action], fromlist=["main"]).main(flags)
    return status
