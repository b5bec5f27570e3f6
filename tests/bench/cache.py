"""What the page cache of an image is good for: wakes with the image on disk alone, against wakes with it in memory.

The image is read at a wake, so what is in the page cache need not come from the disk. The kernel takes it back when it
needs memory; these figures say what a shim would give away that did so beforehand.
"""

import os
import time
from pathlib import Path

from tests.bench.applications import NGINX, REDIS_350M, Application
from tests.bench.containers import COLD, OURS, entered, running
from tests.bench.figures import Figure
from tests.bench.scale import Scale
from tests.bench.usage import cached, images
from tests.integration.containerd import Containerd
from tests.integration.sleep.helpers.shims import until_state

LONG = 120.0
REST = 0.3
CACHED = "with the image in the page cache"


def cache(client: Containerd, scale: Scale) -> list[Figure]:
    figures = []
    for application in scale.of((NGINX, REDIS_350M), (NGINX,)):
        for state, annotations in (("COLD", COLD),):
            runs = scale.runs(10, 3)
            figures.append(_measure(client, application, state, annotations, runs))
    return figures


def _measure(
    client: Containerd, application: Application, state: str, annotations: dict[str, str], runs: int
) -> Figure:
    dropped: list[float] = []
    kept: list[float] = []
    with running(client, application, OURS, annotations) as container:
        for _ in range(runs):
            for samples in (dropped, kept):
                until_state(container.id, state, LONG)
                if samples is dropped:
                    _drop(container.id)
                time.sleep(REST)
                with entered(container):
                    samples.append(application.ask())
    return Figure(f"{state}, image not in the page cache, {application.name}", "ms", dropped, kept, CACHED)


def _drop(id: str) -> None:
    for file in images(id).iterdir():
        _drop_file(file)
    if left := cached(id) >> 20:
        raise RuntimeError(f"{left} MiB of the image of {id} stay in the page cache")


def _drop_file(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())  # only what is on disk is let go of
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
