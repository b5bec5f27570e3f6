#!/usr/bin/env python3
"""Compiles lookup.c with bcc to src/zeropod/kernel/lookup.bpf: `just bpf`, in the test node, as root.

With --check it writes nothing and fails when the file differs from what it would write. The same
source and the same compiler give the same bytes.

The result is JSON: what a loader needs and nothing else.

    maps          by name: name, type, key_size, value_size (bytes), max_entries
    instructions  one string of 16 hexadecimal digits each, as in memory (little-endian)
    relocations   [index of an instruction, name of a map]: a 64-bit load whose immediate value is
                  to become that map's file descriptor

bcc wants a kernel's headers under /lib/modules/RELEASE; any kernel's will do, since the program
reads only what include/uapi/linux/bpf.h defines. In the node they are Debian's, linked there.
"""

import argparse
import ctypes
import json
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "src/zeropod/kernel/lookup.bpf"
FUNCTION = "lookup"
# Kernel constants by the names that the file uses.
MAP_TYPES = {1: "hash", 9: "lru_hash", 15: "sockmap"}
LOAD_64, PSEUDO_MAP_FD = 0x18, 1


def link_headers() -> None:
    """Puts Debian's header packages where bcc looks for those of the running kernel."""
    modules = Path("/lib/modules") / os.uname().release
    if modules.exists():
        return
    architectures = sorted(Path("/usr/src").glob("linux-headers-*-cloud-*"))
    common = sorted(Path("/usr/src").glob("linux-headers-*-common"))
    if not architectures or not common:
        sys.exit("compile.py: no kernel headers in /usr/src: install linux-headers-cloud-amd64")
    modules.mkdir(parents=True)
    (modules / "build").symlink_to(architectures[-1])
    (modules / "source").symlink_to(common[-1])


def compiled(source: Path) -> str:
    """The container's text for a C file."""
    import bcc

    module = bcc.BPF(src_file=str(source), cflags=["-Wno-duplicate-decl-specifier"])
    lib = bcc.lib
    # bcc itself calls neither of these.
    lib.bpf_num_tables.argtypes = [ctypes.c_void_p]
    lib.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    lib.bpf_table_name.restype = ctypes.c_char_p
    maps, names = [], {}
    for index in range(lib.bpf_num_tables(module.module)):
        name = lib.bpf_table_name(module.module, index).decode()
        names[lib.bpf_table_fd(module.module, name.encode())] = name
        maps.append(
            {
                "name": name,
                "type": MAP_TYPES[lib.bpf_table_type_id(module.module, index)],
                "key_size": lib.bpf_table_key_size_id(module.module, index),
                "value_size": lib.bpf_table_leaf_size_id(module.module, index),
                "max_entries": lib.bpf_table_max_entries_id(module.module, index),
            }
        )
    code = module.dump_func(FUNCTION)
    instructions, relocations = [], []
    for index, offset in enumerate(range(0, len(code), 8)):
        operation, registers, displacement, immediate = struct.unpack_from("<BBhi", code, offset)
        if operation == LOAD_64 and registers >> 4 == PSEUDO_MAP_FD:
            relocations.append([index, names[immediate]])
            immediate = 0  # a descriptor of this process, different every time
        instructions.append(struct.pack("<BBhi", operation, registers, displacement, immediate).hex())
    maps.sort(key=lambda entry: str(entry["name"]))
    fields: dict[str, Sequence[object]] = {"maps": maps, "relocations": relocations, "instructions": instructions}
    lines = [
        f"  {json.dumps(key)}: [\n" + ",\n".join(f"    {json.dumps(entry)}" for entry in entries) + "\n  ]"
        for key, entries in fields.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile lookup.c with bcc.")
    parser.add_argument("--check", action="store_true", help="fail if the committed file is not the compiled one")
    parser.add_argument("--output", type=Path, default=TARGET, help=f"instead of {TARGET}; - for standard output")
    arguments = parser.parse_args()
    link_headers()
    text = compiled(HERE / "lookup.c")
    if arguments.check:
        if arguments.output.read_text() != text:
            sys.exit(f"compile.py: {arguments.output} is not what lookup.c compiles to: run `just bpf`")
    elif str(arguments.output) == "-":
        sys.stdout.write(text)
    else:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
