"""How long the scale-down window is, in which a request must wait, by the size of the memory.

From the freeze to the moment from which on a request wakes the container: as the shim measures it, which tells
`zeropod ps`. The peer is `redis 5 MB`: how the window grows with memory.
"""

from tests.bench.applications import NGINX, REDIS, REDIS_2G, REDIS_60M, REDIS_350M, redis
from tests.bench.containers import COLD, OURS, STANDBY, entered, running
from tests.bench.figures import Figure
from tests.bench.scale import Scale
from tests.integration.containerd import Containerd
from tests.integration.sleep.helpers.shims import until_state

REDIS_1G = redis("1 GB", 875_000)
LONG = 120.0


def window(client: Containerd, scale: Scale) -> list[Figure]:
    figures, smallest = [], dict[str, list[float]]()
    for application in scale.of((REDIS, NGINX, REDIS_60M, REDIS_350M, REDIS_1G, REDIS_2G), (REDIS, REDIS_60M)):
        for state, annotations in (("STANDBY", STANDBY), ("COLD", COLD)):
            samples = []
            with running(client, application, OURS, annotations) as container:
                for _ in range(scale.runs(4 if application in (REDIS_1G, REDIS_2G) else 10, 3)):
                    samples.append(until_state(container.id, state, LONG).last_checkpoint_ms)
                    with entered(container):
                        application.ask()
            peer = smallest.setdefault(state, samples)
            name = f"scale-down window to {state}, {application.name}"
            figures.append(Figure(name, "ms", samples, peer if application is not REDIS else [], REDIS.name))
    return figures
