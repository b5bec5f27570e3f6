"""Generates zeropod.rpc.messages from the .proto files beside this script.

Run it with the development environment's Python, which has grpcio-tools; the results are committed, so that
neither building nor running zeropod needs a compiler. The same input and compiler give the same files.

protoc names modules after the folders of the .proto files and imports them from the top level. Here every
file becomes a module directly in zeropod.rpc.messages (task.proto: task_pb2), so base names must be unique,
and imports between them are pointed at that package.
"""

import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

SOURCES = Path(__file__).resolve().parent
MESSAGES = SOURCES.parent / "src" / "zeropod" / "rpc" / "messages"

# `from containerd import task_pb2 as …` and `import top_pb2 as …`, but not google.protobuf's own modules.
OWN_IMPORT = re.compile(r"^(?:from (?!google\.)[\w.]+ )?import (\w+_pb2)\b", re.MULTILINE)

# protoc's stubs take a mapping for every message field without saying of what, which mypy --strict refuses.
BARE_MAPPING = re.compile(r"\b_Mapping\b(?=\])")


def compile_protos(protos: list[Path], output: Path) -> None:
    """Lets protoc write the modules and their stubs below `output`; ends the program if it refuses a file."""
    well_known = Path(protoc.__file__).resolve().parent / "_proto"
    arguments = ["protoc", f"-I{SOURCES}", f"-I{well_known}", f"--python_out={output}", f"--pyi_out={output}"]
    code = protoc.main([*arguments, *map(str, protos)])
    if code != 0:
        sys.exit(f"protoc ended with status {code}; its message above names the .proto file to mend")


def generate(output: Path) -> int:
    """Replaces the generated files in `output` and returns how many there are."""
    protos = sorted(SOURCES.rglob("*.proto"))
    names = [proto.stem for proto in protos]
    if len(set(names)) != len(names):
        sys.exit(f"two .proto files share a base name, and would become the same module: {sorted(names)}")
    for stale in output.glob("*_pb2.py*"):
        stale.unlink()
    with tempfile.TemporaryDirectory() as scratch:
        compile_protos(protos, Path(scratch))
        generated = sorted(Path(scratch).rglob("*_pb2.py*"))
        for path in generated:
            text = OWN_IMPORT.sub(r"from zeropod.rpc.messages import \1", path.read_text())
            text = BARE_MAPPING.sub("_Mapping[str, object]", text)
            (output / path.name).write_text(text)
    return len(generated)


if __name__ == "__main__":
    print(f"{generate(MESSAGES)} files written to {MESSAGES}")
