"""How much is measured: everything, or what fits into three minutes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Scale:
    quick: bool = False
    samples: int | None = None
    """Of each figure, if the user has said so."""
    pods: tuple[int, ...] = (20, 100, 200)

    def runs(self, full: int, quick: int) -> int:
        return self.samples or (quick if self.quick else full)

    def of(self, everything: Iterable[_Item], quick: Sequence[_Item]) -> list[_Item]:
        return [item for item in everything if not self.quick or item in quick]
