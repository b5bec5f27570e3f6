"""The scripts in the install root that start bundled programs. Pure functions.

A bundled program must not load the node's libraries, nor its children the bundle's. So a script starts the bundle's own
loader, with the library path as an argument, which children do not inherit.
"""

from zeropod import paths


def program(root: str, name: str) -> str:
    """Return a script that starts `lib/programs/NAME` of the install root with its own loader and libraries."""
    # Otherwise CRIU loads plugins from /usr/lib/criu, which may be of another version.
    lines = [f"export CRIU_LIBS_DIR={root}/lib/criu"] if name == "criu" else []
    loader = f"{root}/lib/ld.so --inhibit-cache --library-path {root}/lib --argv0 {root}/bin/{name}"
    return _script(*lines, f'exec {loader} {root}/lib/programs/{name} "$@"')


def mode(root: str, name: str = "") -> str:
    """Return a script that starts zeropod in the mode `name`, with the programs of the install root."""
    words = f"exec {root}/bin/zeropod.pyz {name}".rstrip()
    return _script(f"export {paths.ROOT_VARIABLE}={root} PATH={root}/bin:$PATH", f'{words} "$@"')


def _script(*lines: str) -> str:
    return "\n".join(("#!/bin/sh", "# Written by `zeropod installer`.", *lines, ""))
