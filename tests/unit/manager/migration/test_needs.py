"""What a node lacks for a container is said before that is frozen."""

import pytest

from zeropod.manager.migration.needs import as_object, from_object, obstacle
from zeropod.rpc.messages.node_pb2 import Needs

HAS = Needs(
    architecture="x86_64", kernel="6.18.2-cloud", criu="4.2.1", cpu_features=["avx", "sse"], image="sha256:a",
    page_size=4096,
)  # fmt: skip


@pytest.mark.parametrize(
    ("needs", "lacks"),
    [
        (HAS, ""),
        (Needs(), ""),
        (Needs(architecture="aarch64"), "aarch64"),
        (Needs(kernel="6.18.40"), ""),
        (Needs(kernel="6.9.1"), ""),
        (Needs(kernel="6.19.0"), "the older 6.18.2-cloud"),
        (Needs(kernel="7.0"), "the older"),
        (Needs(criu="4.2"), ""),
        (Needs(criu="4.10"), "the older 4.2.1"),
        (Needs(cpu_features=["sse"]), ""),
        (Needs(cpu_features=["sse", "avx512f"]), "lacks avx512f"),
        (Needs(cpu_features=list("abcdefg")), "a, b, c, d, e and 2 more"),
        (Needs(image="sha256:b"), "sha256:b"),
        (Needs(page_size=65536), "65536"),
    ],
)
def test_an_obstacle(needs: Needs, lacks: str) -> None:
    found = obstacle(needs, HAS)
    assert lacks in found
    assert bool(found) is bool(lacks)


def test_what_is_not_told_is_no_obstacle() -> None:
    assert not obstacle(HAS, Needs())


def test_it_goes_through_the_api_as_it_is() -> None:
    assert from_object(as_object(HAS)) == HAS
    assert as_object(Needs()) == {}
    # Others may write Migrations, too.
    assert from_object({"kernel": 7, "cpuFeatures": [1, "sse"], "pageSize": -1, "criu": None}) == Needs(
        cpu_features=["sse"]
    )
