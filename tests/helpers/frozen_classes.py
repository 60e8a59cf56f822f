"""Frozen dataclasses of states in checkpoints."""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Pair(Generic[T]):
    left: T
    right: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slotted:
    value: Any

    @dataclass(frozen=True)
    class Inner:
        value: Any
        derived: int = field(init=False, default=0)

        def __post_init__(self) -> None:
            object.__setattr__(self, "derived", self.derived + 1)
