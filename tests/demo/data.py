"""What redis holds in the demo, and whether it still does: every check says what it found if it does not."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.demo.clients import Redis

VALUE = 1000
"""Bytes of each value."""

CHUNK = 20_000
"""Keys that are made by one command."""

SAMPLED = 25
"""Keys that are read back one by one, besides the digest of all."""

CITY = "Zürich"


@dataclass(frozen=True, slots=True)
class Identity:
    """What would differ if redis had been started again, or the connection had been another one."""

    run_id: str
    connection_id: str
    seen_as: str

    @classmethod
    def of(cls, client: Redis) -> "Identity":
        return cls(client.run_id(), client.text("CLIENT", "ID"), client.seen_as())


class Data:
    """What one redis holds, by way of one connection that stays open."""

    def __init__(self, client: Redis, megabytes: int) -> None:
        self.counter = 0
        """What `counter` has to be."""
        self._client = client
        self._keys = megabytes * 1_000_000 // VALUE
        # In pieces, none of which takes as long as it takes to be called idle. Keys that are there are left alone.
        for count in range(CHUNK, self._keys + CHUNK, CHUNK):
            client.ask("DEBUG", "POPULATE", str(min(count, self._keys)), "key", str(VALUE))
        client.ask("SET", "counter", "0")
        client.ask("HSET", "city:1", "name", CITY, "river", "Limmat")
        self.digest = client.text("DEBUG", "DIGEST")
        """What the digest of everything has to be."""
        self._identity = Identity.of(client)

    def count(self) -> None:
        """Changes something, so that the next checkpoint has to differ from the last one."""
        self._client.ask("INCR", "counter")
        self.counter += 1
        self.digest = self._client.text("DEBUG", "DIGEST")

    def checks(self) -> Iterator[tuple[bool, str]]:
        """Whether each thing holds, and what is wrong if it does not."""
        digest = self._client.text("DEBUG", "DIGEST")
        yield digest == self.digest, f"the digest of all keys was {self.digest}, is {digest}"
        for key in random.sample(range(self._keys), SAMPLED):
            value = self._client.text("GET", f"key:{key}")
            right = len(value) == VALUE and value.rstrip("\0") == f"value:{key}"
            yield right, f"key:{key} is {value[:40]!r}, {len(value)} bytes"
        now = Identity.of(self._client)
        yield now == self._identity, f"run id and connection were {self._identity}, are {now}"
        yield now.seen_as == self._client.address, f"sees {now.seen_as} instead of {self._client.address}"
