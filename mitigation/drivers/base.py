"""What every driver promises.

A driver is given rules as values and knows no model. Whatever it drives, it holds to this: never wider than asked,
never touch what is not ours, doing a thing twice is harmless, and "installed" is said only after reading back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mitigation.exceptions import DriverError
from mitigation.rules.canonical import Kind, Rule
from mitigation.rules.filters import FilterRule, FilterSet


class HealthState(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"  # works, and something wants an operator's eye
    DOWN = "down"  # nothing can be put on this equipment now


@dataclass(frozen=True)
class Health:
    """`sentence` is for people."""

    state: HealthState
    sentence: str


@dataclass(frozen=True)
class Capabilities:
    """`enforces` is False where no traffic is ever touched; `counts` where no counters come back."""

    name: str
    enforces: bool
    counts: bool
    stateful: bool
    kinds: frozenset[Kind]
    max_rules: int


@dataclass(frozen=True)
class Problem:
    """Why this equipment cannot express the rule with this key."""

    key: str
    sentence: str


@dataclass(frozen=True)
class Desired:
    """The equipment itself takes the rule away after `expires_in_seconds`, whether this server still runs or not."""

    rule: Rule
    expires_in_seconds: int

    def __post_init__(self) -> None:
        if self.expires_in_seconds < 1:
            raise ValueError(f"{self.rule.key} would expire in {self.expires_in_seconds} seconds")


@dataclass(frozen=True)
class DesiredFilters:
    """The equipment lets go of a domain's filters after `expires_in_seconds`, whether this server still runs or not."""

    filters: FilterSet
    expires_in_seconds: int


@dataclass(frozen=True)
class Installed:
    key: str
    expires_in_seconds: int


@dataclass(frozen=True)
class Counter:
    """Running totals of one incarnation of a rule.

    Totals grow within one (key, epoch). A new epoch starts at nothing: its totals come on top of those of earlier
    epochs. Of one key only one epoch runs; others in the same reading are the last totals of what was taken away.
    """

    key: str
    epoch: str
    packets: int
    octets: int


class Driver(ABC):
    """Methods that talk to equipment raise DriverError, with `retryable` saying whether trying again may help."""

    give_way: Callable[[], None] | None = None  # called between the parts of a long reading; what it raises ends that

    @contextmanager
    def giving_way(self, give_way: Callable[[], None] | None) -> Iterator[None]:
        """Within this block readings may be ended by what is called between their parts."""
        self.give_way = give_way
        try:
            yield
        finally:
            self.give_way = None

    @abstractmethod
    def capabilities(self) -> Capabilities: ...

    @abstractmethod
    def check(self, rules: Sequence[Rule]) -> list[Problem]:
        """What of these, taken together, cannot be expressed; asks no equipment."""

    @abstractmethod
    def health(self) -> Health:
        """Never raises: what is wrong is the answer."""

    @abstractmethod
    def installed(self) -> dict[str, Installed]:
        """What is in force, by key, read back from the equipment; a rule of which a part is missing is not in it."""

    def installed_among(self, keys: Collection[str]) -> dict[str, Installed] | None:
        """The same of these keys; None where more has to be read, because somebody else changed the equipment."""
        found = self.installed()
        return {key: found[key] for key in keys if key in found}

    def is_as_read(self) -> bool:
        """False once anybody else changed the equipment after `installed` last looked; True also where it cannot say.

        Cheap enough for every second, and only a hint: what changed is for `installed` to see.
        """
        return True

    @abstractmethod
    def apply(self, add: Sequence[Desired], remove: Collection[str]) -> None:
        """Install or renew `add` and take `remove` (keys) away; a key in both is renewed. All in force on return.

        Rules that are neither added nor removed are left alone. Adding what is there renews its deadline and keeps its
        counters; removing what is not there is fine.
        """

    @abstractmethod
    def counters(self) -> list[Counter]:
        """Totals of all rules there are, and the last totals of those taken away since the previous call."""

    def parting_counters(self) -> list[Counter]:
        """Of these the last totals only, at once after a removal; `counters` does not tell them again."""
        return []

    @abstractmethod
    def resync(self, desired: Sequence[Desired]) -> None:
        """Make the equipment hold exactly this, repairing whatever else is found among what is ours."""

    def tidy(self) -> None:  # noqa: B027  # most drivers leave nothing behind
        """Take away what `installed` last saw to serve no rule any more. It touched no packet."""

    # Clients' filters (RFC 8783): a driver whose equipment has none leaves these as they are

    @classmethod
    def filter_capabilities(cls) -> dict[str, Any]:
        """What can be matched and done: the tree of RFC 8783, section 7.1. Nothing that could not be enforced."""
        return {}

    def check_filters(self, rules: Sequence[FilterRule]) -> list[Problem]:
        """What of these, all there would be, cannot be expressed exactly; asks no equipment."""
        return [Problem(rule.key, "this equipment takes no filters") for rule in rules]

    def filters_in_force(self, desired: Sequence[DesiredFilters]) -> dict[str, int]:
        """By key of their set, for how many seconds: those that stand just so, read back from the equipment."""
        return {}

    def apply_filters(self, desired: Sequence[DesiredFilters]) -> None:
        """Make the equipment hold exactly these, each domain's changed at one moment. All in force on return.

        What stays keeps its counters, also where entries beside it change.
        """
        if desired:
            raise DriverError("this equipment takes no filters", retryable=False)

    def filter_counters(self) -> list[Counter]:
        """Totals by key of the rule, and the last totals of those taken away since the previous call."""
        return []

    def parting_filter_counters(self) -> list[Counter]:
        """The last totals only; here all of them."""
        return self.filter_counters()

    @abstractmethod
    def remove_all(self, *, by_force: bool = False) -> None:
        """Take away everything that is ours, and nothing else; `by_force` also when another process drives it."""

    def close(self) -> None:  # noqa: B027  # most drivers hold nothing
        """Let go of locks and connections; rules stay until their deadline."""
