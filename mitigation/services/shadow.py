"""Shadow mode of a domain: everything but installing, with an estimate of what would have been dropped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mitigation.models import Mitigation
from mitigation.rules.canonical import Kind, Rule

SAID = "shadow mode: its rules are shown, and none that touches traffic is installed"


@dataclass(frozen=True, slots=True)
class Estimate:
    """Traffic of its whole scope, counted while nothing was dropped. `exact`: its rules drop all of the scope."""

    packets: int
    octets: int
    exact: bool

    @property
    def sentence(self) -> str:
        about = "an estimate" if self.exact else "an estimate from above: all that came to its scope"
        most = "" if self.exact else "at most "
        return f"{most}{self.packets:,} packets ({self.octets:,} octets) would have been dropped; {about}"


def estimate(mitigation: Mitigation) -> Estimate | None:
    """Of a mitigation with its domain loaded; None where it is not in shadow mode, or nothing was counted."""
    packets, octets = mitigation.passed_packets, mitigation.passed_octets
    if not mitigation.domain.shadow or packets is None or octets is None:
        return None
    return Estimate(packets, octets, exact=mitigation.playbook == "discard")


def with_counters(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """These rules, and rules that count all of their scope and touch nothing, where there are none yet."""
    rules = tuple(rules)
    if any(not rule.touches for rule in rules):
        return rules
    return (*rules, *(Rule(Kind.PASSED, rule.box) for rule in rules))
