"""Equipment as a test wants it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mitigation.drivers.base import (
    Capabilities,
    Counter,
    Desired,
    DesiredFilters,
    Driver,
    Health,
    HealthState,
    Installed,
    Problem,
)
from mitigation.exceptions import DriverError
from mitigation.rules.canonical import Kind
from mitigation.rules.canonical import Rule as CanonicalRule
from mitigation.rules.filters import FilterRule


class Memory(Driver):
    """Equipment in memory that can lose rules, refuse, and count."""

    def __init__(self) -> None:
        self.rules: dict[str, Desired] = {}
        self.broken = ""
        self.readings: list[Counter] = []
        self.applied: list[tuple[int, int]] = []
        self.resyncs = 0
        self.done: list[str] = []  # in order
        self.filters: dict[str, DesiredFilters] = {}
        self.filter_readings: list[Counter] = []
        self.filters_applied = 0
        self.filters_read = 0
        self.impossible: set[str] = set()

    def capabilities(self) -> Capabilities:
        return Capabilities("memory", enforces=True, counts=True, stateful=True, kinds=frozenset(Kind), max_rules=1000)

    def check(self, rules: Sequence[CanonicalRule]) -> list[Problem]:
        return []

    def health(self) -> Health:
        return Health(HealthState.DOWN if self.broken else HealthState.HEALTHY, self.broken or "well")

    def installed(self) -> dict[str, Installed]:
        self._work()
        return {key: Installed(key, one.expires_in_seconds) for key, one in self.rules.items()}

    def apply(self, add: Sequence[Desired], remove: Collection[str]) -> None:
        self._work()
        self.applied.append((len(add), len(remove)))
        self.done.append("rules come" if add else "rules go")
        for key in remove:
            self.rules.pop(key, None)
        self.rules |= {one.rule.key: one for one in add}

    def counters(self) -> list[Counter]:
        self._work()
        return self.readings

    def resync(self, desired: Sequence[Desired]) -> None:
        self._work()
        self.resyncs += 1
        self.rules = {one.rule.key: one for one in desired}

    def check_filters(self, rules: Sequence[FilterRule]) -> list[Problem]:
        return [Problem(rule.key, "too hard for this equipment") for rule in rules if rule.ace in self.impossible]

    def filters_in_force(self, desired: Sequence[DesiredFilters]) -> dict[str, int]:
        self._work()
        self.filters_read += 1
        return {key: one.expires_in_seconds for key, one in self.filters.items()}

    def apply_filters(self, desired: Sequence[DesiredFilters]) -> None:
        self._work()
        self.filters_applied += 1
        self.done.append(f"{sum(len(one.filters.lists) for one in desired)} lists")
        self.filters = {one.filters.key: one for one in desired}

    def filter_counters(self) -> list[Counter]:
        self._work()
        return self.filter_readings

    def remove_all(self, *, by_force: bool = False) -> None:
        self.rules.clear()

    def _work(self) -> None:
        if self.broken:
            raise DriverError(self.broken)
