"""The eBPF bytecode that the package carries is what its source compiles to."""

import subprocess
from pathlib import Path

COMPILE = Path(__file__).parents[3] / "bpf" / "compile.py"


def test_the_committed_bytecode_is_the_compiled_source() -> None:
    done = subprocess.run(["python3", COMPILE, "--check"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
