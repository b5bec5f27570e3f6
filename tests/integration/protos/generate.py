"""Generates the message modules beside this script from the .proto files beside it.

Run it with the development environment's Python, which has grpcio-tools; the results are committed, since the test
node has no compiler. Messages that the product has already (mounts, process states) are imported from it: two
descriptions of one message in a process are an error to protobuf.
"""

import re
import sys
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
PRODUCT = HERE.parents[2] / "proto"
WELL_KNOWN = Path(protoc.__file__).resolve().parent / "_proto"


def main() -> None:
    protos = sorted(HERE.glob("*.proto"))
    paths = [f"-I{directory}" for directory in (HERE, PRODUCT, WELL_KNOWN)]
    status = protoc.main(["protoc", *paths, f"--python_out={HERE}", f"--pyi_out={HERE}", *map(str, protos)])
    if status != 0:
        sys.exit(f"protoc ended with status {status}; its message above names the .proto file to mend")
    for path in HERE.glob("*_pb2.py*"):
        text = re.sub(
            r"^from containerd import", "from zeropod.rpc.messages import", path.read_text(), flags=re.MULTILINE
        )
        path.write_text(re.sub(r"\b_Mapping\b(?=\])", "_Mapping[str, object]", text))


if __name__ == "__main__":
    main()
