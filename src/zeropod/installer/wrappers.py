"""The scripts in the install root that start what is bundled. Pure text.

A bundled program must not see the libraries of the node, nor the node's programs those of the bundle: so the bundle's
own loader is started, with the path of its libraries as an argument, which no child inherits.
"""

from zeropod import paths


def program(root: str, name: str) -> str:
    """Starts `lib/programs/NAME` of the install root with its own loader and libraries."""
    # Else CRIU looks for plugins in /usr/lib/criu, where those of another version may be.
    lines = [f"export CRIU_LIBS_DIR={root}/lib/criu"] if name == "criu" else []
    loader = f"{root}/lib/ld.so --inhibit-cache --library-path {root}/lib --argv0 {root}/bin/{name}"
    return _script(*lines, f'exec {loader} {root}/lib/programs/{name} "$@"')


def mode(root: str, name: str = "") -> str:
    """Starts zeropod, in the mode `name`, where the programs in the install root are not found otherwise."""
    words = f"exec {root}/bin/zeropod.pyz {name}".rstrip()
    return _script(f"export {paths.ROOT_VARIABLE}={root} PATH={root}/bin:$PATH", f'{words} "$@"')


def _script(*lines: str) -> str:
    return "\n".join(("#!/bin/sh", "# Written by `zeropod installer`.", *lines, ""))
