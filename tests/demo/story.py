"""What happens in the demo: two pods, a redis full of data and an nginx, go to sleep and are woken, again and again.

First they are wanted again while they are in STANDBY, then after they have gone on to COLD. Everything is asked from
outside of the pods, as a client would. What has to hold is checked and counted; a check that fails goes into the
results and ends nothing, a request that fails ends the story.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from tests.demo.clients import Page, Redis, Timed, Value, Visit, get, visit_redis
from tests.demo.data import CITY, SAMPLED, Data
from tests.demo.plan import COLD, STANDBY, STANDBY_DURATION, Plan, Round
from tests.demo.results import Requests, Results, Sleeps
from tests.demo.show import Show
from tests.demo.usage import RESIDENT
from tests.demo.watch import SAMPLE, Status, Watch, Watched
from tests.demo.words import median, milliseconds, processes, size

BASELINE = 20
"""Requests of each kind to a container that is awake."""

FALL_ASLEEP = 10.0
"""Seconds beyond what was asked for until the demo gives up waiting for a state."""

WAKE_UP = 5.0
"""Seconds after an answer until the demo gives up waiting for `zeropod ps` to know of the wake."""

NAP = 1.0
"""Seconds that nobody wants the sleeping containers."""

PAGE = "hello from nginx"

Asleep = Sequence[tuple[Status, Watched]]


class Story:
    def __init__(self, plan: Plan, watch: Watch, redis: Watched, nginx: Watched, show: Show, results: Results) -> None:
        self._plan = plan
        self._watch = watch
        self._redis = redis
        self._nginx = nginx
        self._show = show
        self._results = results
        self._page = Requests("nginx, new connection")
        self._open = Requests("redis, open connection")
        self._new = Requests("redis, new connection")
        self._sleeps = {who.name: Sleeps(who.name) for who in (redis, nginx)}
        results.requests += [self._page, self._open, self._new]
        results.sleeps += self._sleeps.values()

    def tell(self) -> None:
        """Raises OSError, ValueError or TimeoutError for what must not happen at all."""
        with Redis(self._redis_ip) as client:
            data = self._fill(client)
            self._measure_awake(client)
            for one in self._plan.rounds():
                asleep = self._fall_asleep(one.depth)
                self._wake_nginx(one)
                self._wake_redis(one, client, data)
                self._look_at_wake(one, asleep)
                self._check_data(client, data)
                get(self._nginx_ip)  # so that both fall asleep at about the same time

    @property
    def _redis_ip(self) -> str:
        return self._redis.container.pod.ip

    @property
    def _nginx_ip(self) -> str:
        return self._nginx.container.pod.ip

    def _check(self, held: bool, who: str, what: str) -> None:
        if held:
            self._results.held += 1
        else:
            self._results.failures.append(f"{who}: {what}")
            self._show.event(who, "FAIL", what)

    # Awake

    def _fill(self, client: Redis) -> Data:
        data = Data(client, self._plan.megabytes)
        text = f"{client.ask('DBSIZE'):,} keys, {self._plan.megabytes} MB; digest {data.digest[:12]}"
        self._show.event("redis", "FILL", f"{text}; this connection stays open from now on")
        return data

    def _measure_awake(self, client: Redis) -> None:
        for _ in range(BASELINE):
            self._open.awake.append(client.timed("GET", "counter").first_byte)
            self._new.awake.append(visit_redis(self._redis_ip, "GET", "counter").answer.first_byte)
            self._page.awake.append(get(self._nginx_ip).first_byte)
        time.sleep(2 * SAMPLE)
        for who in self._watch.watched:
            usage, sleeps = who.look(), self._sleeps[who.name]
            sleeps.awake.append(usage.memory)
            sleeps.processes = usage.processes
            sleeps.pid = who.status.pid if who.status else 0
        first_byte = f"{median(self._open.awake)} on the open connection, {median(self._new.awake)} on a new one"
        self._say_awake("redis", first_byte)
        self._say_awake("nginx", f"{median(self._page.awake)} on a new connection")

    def _say_awake(self, who: str, first_byte: str) -> None:
        sleeps = self._sleeps[who]
        text = f"{processes(sleeps.processes)}, {size(sleeps.awake[-1])}; to the first byte {first_byte}"
        self._show.event(who, "AWAKE", text)

    # Asleep

    def _fall_asleep(self, depth: str) -> Asleep:
        """Both, once they are in this state and have stayed in it for a while."""
        asleep = self._wait_for(STANDBY, time.time(), self._plan.idle)
        for status, who in sorted(asleep, key=lambda pair: pair[0].since):
            self._look_at_standby(status, who)
        time.sleep(NAP)
        for _, who in asleep:
            self._look_at_memory(who)
        if depth == COLD:
            began = {who.name: status.since for status, who in asleep}
            asleep = self._wait_for(COLD, max(began.values()), STANDBY_DURATION)
            for status, who in sorted(asleep, key=lambda pair: pair[0].since):
                self._look_at_cold(status, who, status.since - began[who.name])
            time.sleep(NAP)
        for status, who in asleep:
            self._check(who.status == status, who.name, f"did not stay in {depth} until it was wanted")
        return asleep

    def _wait_for(self, state: str, last_seen: float, expected: float) -> Asleep:
        """Both, once they are in this state since after `last_seen`, which should take `expected` seconds."""

        def there(status: Status) -> bool:
            return status.state == state and status.since > last_seen

        patience = expected + FALL_ASLEEP
        return [(self._watch.wait(who, f"in {state}", there, patience), who) for who in self._watch.watched]

    def _look_at_standby(self, status: Status, who: Watched) -> None:
        usage, sleeps = who.look(), self._sleeps[who.name]
        sleeps.slept_in.append(status.slept_in / 1000)
        text = f"after {status.slept_in:.1f} ms: {processes(usage.processes)} frozen in place"
        self._show.event(who.name, STANDBY, text, status.since)
        self._check(status.pid == sleeps.pid, who.name, f"was process {sleeps.pid}, is {status.pid} in STANDBY")
        self._check(who.image_size == 0, who.name, "has an image on disk while it is in STANDBY")
        self._check_asleep(who)

    def _look_at_memory(self, who: Watched) -> None:
        """What has moved out of the memory of a container that has been in STANDBY for a moment."""
        usage, sleeps = who.look(), self._sleeps[who.name]
        sleeps.asleep[STANDBY].append(usage.memory)
        sleeps.out.append(usage.out)
        sleeps.backend = usage.backend
        # Not before: as memory moves out, its tracer holds it instead of the freezer.
        right = usage.frozen and usage.processes == sleeps.processes
        self._check(right, who.name, f"{processes(usage.processes)} of {sleeps.processes}, frozen: {usage.frozen}")
        pager = f" + {size(usage.pager)} of its pager" if usage.pagers else ""
        moved = f"{size(usage.out)} moved out ({usage.backend})" if usage.out else f"nothing moved out ({RESIDENT})"
        self._show.event(who.name, "MEMORY", f"{moved}; {size(usage.resident)}{pager} stay")
        if usage.backend != RESIDENT:
            limit = max(sleeps.awake) // 2
            self._check(usage.memory < limit, who.name, f"{size(usage.memory)} stay, {size(max(sleeps.awake))} awake")

    def _look_at_cold(self, status: Status, who: Watched, stood_by: float) -> None:
        usage, image, sleeps = who.look(), who.image_size, self._sleeps[who.name]
        sleeps.asleep[COLD].append(usage.memory)
        sleeps.image.append(image)
        text = f"after {stood_by:.1f} s of STANDBY: {processes(usage.processes)}, {size(usage.memory)}"
        self._show.event(who.name, COLD, f"{text}, image {size(image)}", status.since)
        self._check(stood_by >= STANDBY_DURATION - 0.1, who.name, f"went COLD after {stood_by:.1f} s of STANDBY")
        left = f"{processes(usage.processes)}, {usage.pagers} pagers are left while it is COLD"
        self._check(usage.processes + usage.pagers == 0, who.name, left)
        self._check(image > 0, who.name, "is COLD, and has no image on disk")
        self._check_asleep(who)

    def _check_asleep(self, who: Watched) -> None:
        state = who.container.state
        self._check(state == "RUNNING", who.name, f"is {state} to containerd while it sleeps")

    # Waking

    def _wake_nginx(self, one: Round) -> None:
        answer = get(self._nginx_ip)
        page = answer.value
        self._say_woken("nginx", one, "new", self._page, answer, f"status {page.status}")
        self._check(page == Page(200, f"{PAGE}\n"), "nginx", f"answered {page.status} {page.body!r}")

    def _wake_redis(self, one: Round, client: Redis, data: Data) -> None:
        together = Barrier(one.by_open + one.by_new, timeout=WAKE_UP)

        def ask() -> Timed[Value]:
            together.wait()
            return client.timed("GET", "counter")

        def visit() -> Visit:
            together.wait()
            return visit_redis(self._redis_ip, "HGET", "city:1", "name")

        with ThreadPoolExecutor(2) as clients:
            through_open = clients.submit(ask) if one.by_open else None
            through_new = clients.submit(visit) if one.by_new else None
        if through_open:
            answer = through_open.result()
            self._say_woken("redis", one, "open", self._open, answer, f"counter = {answer.value}")
            self._check(answer.value == str(data.counter), "redis", f"counter is {answer.value!r}, not {data.counter}")
        if through_new:
            visited = through_new.result()
            city = visited.answer.value
            self._say_woken("redis", one, "new", self._new, visited.answer, f"city = {city}")
            self._check(city == CITY, "redis", f"city is {city!r}, not {CITY}")
            self._check(visited.seen_as == visited.address, "redis", f"sees {visited.seen_as}, not {visited.address}")

    def _say_woken(
        self, who: str, one: Round, kind: str, requests: Requests, answer: Timed[Page] | Timed[Value], text: str
    ) -> None:
        requests.asleep[one.depth].append(answer.first_byte)
        waited = milliseconds(answer.first_byte)
        self._show.event(who, "WAKE", f"from {one.depth}: {kind} connection, {waited} to the first byte, {text}")

    def _look_at_wake(self, one: Round, asleep: Asleep) -> None:
        for before, who in asleep:
            number = before.wakes + 1

            def awake(status: Status, number: int = number) -> bool:
                return status.wakes == number

            status = self._watch.wait(who, f"awake for the {number}. time", awake, WAKE_UP)
            sleeps = self._sleeps[who.name]
            sleeps.woke_in[one.depth].append(status.woke_in / 1000)
            if one.depth == STANDBY:
                self._check(status.pid == sleeps.pid, who.name, f"was process {sleeps.pid}, is {status.pid} now")
            sleeps.pid = status.pid

    def _check_data(self, client: Redis, data: Data) -> None:
        failures = len(self._results.failures)
        for held, what in data.checks():
            self._check(held, "redis", what)
        if len(self._results.failures) == failures:
            kept = f"digest {data.digest[:12]}, {SAMPLED} keys, run id, connection id, the client's address"
            self._show.event("redis", "HELD", f"{kept} as before")
        data.count()
