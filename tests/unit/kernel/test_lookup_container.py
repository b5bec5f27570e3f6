"""The compiled program that the package carries."""

import json
import struct
from importlib import resources

from zeropod.kernel import bpf

CONTAINER = json.loads((resources.files("zeropod.kernel") / "lookup.bpf").read_text())


def test_every_map_is_of_a_kind_the_loader_knows() -> None:
    expected = {"last_seen", "steer", "inspect", "activators", "node_addresses", "tasks", "flows"}
    assert {entry["name"] for entry in CONTAINER["maps"]} == expected
    for entry in CONTAINER["maps"]:
        assert entry["type"].upper() in bpf.MapType.__members__
        assert entry["key_size"] > 0 < entry["value_size"]


def test_every_instruction_is_eight_bytes_and_nothing_runs_past_the_last_one() -> None:
    assert {len(bytes.fromhex(line)) for line in CONTAINER["instructions"]} == {8}
    leaves = ("95", "05")  # BPF_EXIT, BPF_JA
    assert CONTAINER["instructions"][-1].startswith(leaves)


def test_relocations_point_at_loads_of_a_map_and_carry_no_descriptor() -> None:
    names = {entry["name"] for entry in CONTAINER["maps"]}
    for index, name in CONTAINER["relocations"]:
        operation, registers, _, immediate = struct.unpack("<BBhi", bytes.fromhex(CONTAINER["instructions"][index]))
        assert (operation, registers >> 4, immediate) == (0x18, 1, 0)
        assert name in names


def test_no_load_of_a_map_lacks_a_relocation() -> None:
    loads = [index for index, line in enumerate(CONTAINER["instructions"]) if line[:2] == "18" and line[2] == "1"]
    assert loads == [index for index, _ in CONTAINER["relocations"]]
