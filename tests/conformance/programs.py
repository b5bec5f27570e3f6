"""critest, the CRI's own validation suite, built from its module. Kubernetes' own tests: tests/node/kubernetes.py."""

from pathlib import Path

from tests.node import go
from tests.node.cache import CHECKOUT
from tests.node.go import Module, Program

SOURCE = CHECKOUT / "tests" / "conformance" / "critest"
KEPT = CHECKOUT / "build" / SOURCE.name

VARIABLE = "ZEROPOD_SUITE"
"""The environment variable with the directory of the suite's programs, for a command in the node."""


def critest() -> Path:
    """The directory with critest, ginkgo, which runs it in several processes, and what an image of its runs."""
    return go.built(
        Module("critest", "2 minutes on 2 cores", SOURCE, KEPT),
        Program("critest.test", "sigs.k8s.io/cri-tools/cmd/critest", is_test=True),
        Program("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo"),
        Program("nnp"),
    )
