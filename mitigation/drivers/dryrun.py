"""The driver for a server without equipment: plans are rendered and shown, no traffic is touched.

It remembers nothing on purpose. What it would have installed is in the rows of the caller; were it reported as
installed here, something above would one day call it active.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from mitigation.drivers import nft_filters
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
from mitigation.rules.canonical import Kind, Rule
from mitigation.rules.filters import FilterRule


class DryRunDriver(Driver):
    """`stateful` and `max_rules` shape the plan as if there were equipment of that kind."""

    def __init__(self, *, stateful: bool = True, max_rules: int = 10_000) -> None:
        self.stateful = stateful
        self.max_rules = max_rules

    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="dryrun",
            enforces=False,
            counts=False,
            stateful=self.stateful,
            kinds=frozenset(Kind),
            max_rules=self.max_rules,
        )

    def check(self, rules: Sequence[Rule]) -> list[Problem]:
        beyond = rules[self.max_rules :]
        return [Problem(rule.key, f"only {self.max_rules} rules would fit here") for rule in beyond]

    def health(self) -> Health:
        return Health(HealthState.HEALTHY, "dry run: no traffic is touched")

    def installed(self) -> dict[str, Installed]:
        return {}

    def apply(self, add: Sequence[Desired], remove: Collection[str]) -> None:
        """Nothing is put anywhere."""

    def counters(self) -> list[Counter]:
        return []

    def resync(self, desired: Sequence[Desired]) -> None:
        """Nothing is put anywhere."""

    @classmethod
    def filter_capabilities(cls) -> dict[str, Any]:
        """Those of nftables, which it stands for."""
        return nft_filters.capabilities()

    def check_filters(self, rules: Sequence[FilterRule]) -> list[Problem]:
        return nft_filters.check(rules, most=self.max_rules)

    def filters_in_force(self, desired: Sequence[DesiredFilters]) -> dict[str, int]:
        return {}

    def apply_filters(self, desired: Sequence[DesiredFilters]) -> None:
        """Nothing is put anywhere."""

    def filter_counters(self) -> list[Counter]:
        return []

    def remove_all(self, *, by_force: bool = False) -> None:
        """There is nothing."""
